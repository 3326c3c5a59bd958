"""Variables of any model are stored under their own names."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.interop import load_variables, save_variables


def test_variables_of_all_shapes_are_read_as_they_were_written(tmp_path):
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
    given = {"params": {"kernel": kernel, "scale": np.float32(2.5), "none": np.zeros((0, 3))}}
    save_variables(tmp_path / "own", given)
    found = load_variables(tmp_path / "own")["params"]
    for name, leaf in given["params"].items():
        np.testing.assert_array_equal(found[name], leaf)
        assert (found[name].shape, found[name].dtype) == (leaf.shape, leaf.dtype)


def test_types_that_numpy_does_not_have_are_refused(tmp_path):
    given = {"params": {"kernel": jnp.zeros(3, jnp.bfloat16)}}
    with pytest.raises(UserError, match="own: params/kernel is bfloat16, which load_variables"):
        save_variables(tmp_path / "own", given)
    entry = {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}
    header = json.dumps({"params/kernel": entry}).encode()
    (tmp_path / "other").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(UserError, match="other: holds tensors of type BF16; expected those of Nu"):
        load_variables(tmp_path / "other")
