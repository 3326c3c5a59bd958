"""The import of any invalid file of weights ends in one line that names the file."""

import json
import os
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load, save

from bat_jax import models
from bat_jax.errors import UserError
from bat_jax.interop import export_weights, import_weights, save_variables

NORMALIZATION = {"mean": (0.5,), "std": (0.5,)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Returns the variables of a small network, and the bytes of its file."""
    model = models.create("small_cnn", 3, width=2, mean=(0.5,), std=(0.5,))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), dict(shapes))
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    export_weights(path, "small_cnn", variables, **NORMALIZATION)
    return variables, path.read_bytes()


def header_of(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refused(tmp_path, content, num_classes=3):
    """Returns the message that ends the import of these bytes."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        import_weights(path, "small_cnn", num_classes)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("part", np.linspace(0, 0.999, 12))
def test_a_truncated_file_is_refused(part, exported, tmp_path):
    content = exported[1]
    message = refused(tmp_path, content[: int(part * len(content))])
    assert "expected a whole safetensors file" in message


def test_a_file_with_a_flipped_byte_is_read_or_refused(exported, tmp_path):
    content = exported[1]
    header_size = len(content) - len(header_of(content)[1])
    draws = np.random.default_rng(0)
    path = tmp_path / "weights.safetensors"
    messages = []
    for place in draws.choice(header_size, 150, replace=False):
        flipped = bytearray(content)
        flipped[place] ^= 1 << draws.integers(8)
        path.write_bytes(flipped)
        try:
            import_weights(path, "small_cnn", 3)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 100
    for message in messages:
        assert message.startswith(f"{path}: ")
        assert "\n" not in message


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "U8", "BOOL", "NONSENSE"])
def test_tensors_of_a_wrong_type_are_refused(dtype, exported, tmp_path):
    header, data = header_of(exported[1])
    # The last tensor of the file, so that the others stay where they are.
    last = max(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"][1])
    begin, end = header[last]["data_offsets"]
    size = (end - begin) // 4
    header[last] |= {"dtype": dtype, "data_offsets": [begin, begin + size]}
    message = refused(tmp_path, joined(header, data[: begin + size]))
    if dtype.startswith("F8"):
        assert f"{last} is {dtype}" in message
        assert "expected tensors in float16, bfloat16, float32 or float64" in message


@pytest.mark.parametrize(
    "shape", [[], [1], [0, 2**62], [1] * 100, [2**62, 2**62], [-1], ["x"], None]
)
def test_an_extra_tensor_of_any_shape_is_refused(shape, exported, tmp_path):
    header, data = header_of(exported[1])
    end = len(data)
    size = 0 if shape and 0 in shape else 4
    header["further"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
    message = refused(tmp_path, joined(header, data + b"\0" * size))
    if shape == [1]:
        assert "also has further" in message


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"mean": "[" * 10_000 + "]" * 10_000}, "expected a JSON list"),
        ({"mean": "[" * 500 + "]" * 500}, "expected a number for each of 1 channels"),
        ({"mean": '"0"'}, "expected a JSON list"),
        ({"mean": '{"0": 1}'}, "expected a JSON list"),
        ({"mean": "[1" + "0" * 400 + "]"}, "expected a number for each of 1 channels"),
        ({"mean": "[NaN]"}, "expected a number for each of 1 channels"),
        ({"std": "[0]"}, r"std is [0]; expected numbers above 0"),
        ({"std": "[-0.5]"}, r"std is [-0.5]; expected numbers above 0"),
        ({"stem": "a\nb" * 1000}, "expected cifar or tiny_imagenet"),
        ({"mean": None}, "expected a whole safetensors file"),
        ({"mean": {"a": {}}}, "expected a whole safetensors file"),
    ],
)
def test_wrong_metadata_is_refused(metadata, words, exported, tmp_path):
    header, data = header_of(exported[1])
    header["__metadata__"] |= metadata
    assert words in refused(tmp_path, joined(header, data))


def test_endlessly_nested_metadata_is_refused(exported, tmp_path):
    data = header_of(exported[1])[1]
    nested = b'{"__metadata__":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001
    assert "expected a whole safetensors file" in refused(tmp_path, joined(nested, data))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "fc2.bias holds nan (1 of 3 are wrong); expected finite"),
        (-np.inf, "fc2.bias holds -inf"),
        (np.float64(1e300), "fc2.bias holds inf"),
    ],
)
def test_weights_that_are_not_finite_are_refused(value, words, exported, tmp_path):
    tensors = load(exported[1])
    bias = tensors["fc2.bias"].astype(np.float64)
    bias[1] = value
    metadata = {"mean": "[0.5]", "std": "[0.5]"}
    assert words in refused(tmp_path, save(tensors | {"fc2.bias": bias}, metadata))


def test_a_negative_running_variance_is_refused(tmp_path):
    model = models.create("resnet18", 3, width=1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), dict(shapes))
    variables["batch_stats"]["BatchNorm_0"]["var"][0] = -1
    path = tmp_path / "weights.safetensors"
    export_weights(path, "resnet18", variables, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(UserError, match=r"bn1.running_var holds -1.0 \(1 of 1 are wrong\)"):
        import_weights(path, "resnet18", 3)


@pytest.mark.parametrize(
    ("further", "words"),
    [
        ({"a\nb": (1,)}, r"also has 'a\nb'"),
        ({"x" * 10_000: (1,)}, "also has 'xxx"),
        ({"mean": (1,), "normalize.mean": (2,)}, "normalize.mean differs from another buffer"),
    ],
)
def test_extra_tensors_are_named_on_one_line(further, words, exported, tmp_path):
    further = {name: np.ones(shape, np.float32) for name, shape in further.items()}
    assert words in refused(tmp_path, save(load(exported[1]) | further))


def test_variables_of_a_flax_model_are_named_as_such(tmp_path):
    path = tmp_path / "variables.safetensors"
    save_variables(path, {"params": {"Conv_0": {"kernel": np.ones((3, 3, 1, 2), np.float32)}}})
    with pytest.raises(UserError, match=r"holds variables of a Flax model, .*: read it with bat_j"):
        import_weights(path, "small_cnn", 10)


def test_two_names_of_one_tensor_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    names = ("conv1.weight", "fc.bias", "linear.bias")
    path.write_bytes(save({name: np.ones((1, 3, 3, 3), np.float32) for name in names}))
    with pytest.raises(UserError, match=r"fc\.bias and linear.bias name one tensor of resnet18"):
        import_weights(path, "resnet18", 3)


@pytest.mark.parametrize("missing", ["conv1.weight", "fc1.weight", "fc2.bias"])
def test_a_missing_tensor_is_named(missing, exported, tmp_path):
    tensors = load(exported[1])
    del tensors[missing]
    assert f"lacks {missing}" in refused(tmp_path, save(tensors))


@pytest.mark.parametrize(
    ("num_classes", "expected"), [(0, "1 or more"), (-1, "1 or more"), (1.5, "a whole number")]
)
def test_a_network_without_classes_is_refused(num_classes, expected, exported, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(exported[1])
    with pytest.raises(UserError, match=f"num_classes is {num_classes}; expected {expected}"):
        import_weights(path, "small_cnn", num_classes)


def test_folders_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match=f"{path}: is not a file"):
            import_weights(path, "small_cnn", 3)


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_weights_are_written_to_files_only(name, exported):
    with pytest.raises(UserError, match="is not a file; expected the safetensors file to write"):
        export_weights(name, "small_cnn", exported[0], **NORMALIZATION)


def test_a_standard_deviation_of_0_is_not_written(exported, tmp_path):
    with pytest.raises(UserError, match=r"std is \(0,\); expected numbers above 0"):
        export_weights(tmp_path / "file", "small_cnn", exported[0], mean=(0,), std=(0,))


def test_the_counter_of_averaged_weights_is_left_out(exported, tmp_path):
    tensors = {f"module.{name}": value for name, value in load(exported[1]).items()}
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(tensors | {"n_averaged": np.ones((), np.int64)}))
    found = import_weights(path, "small_cnn", 3, **NORMALIZATION)
    jax.tree.map(np.testing.assert_array_equal, found.variables, exported[0])
