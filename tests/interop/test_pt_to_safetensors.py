"""The conversion of PyTorch checkpoints finds the network in the layouts of published files."""

import subprocess
import sys

import numpy as np
import pt_to_safetensors
import pytest
from pt_to_safetensors import CheckpointError, state_of, without_prefixes

TENSORS = {"conv1.weight": np.ones(1), "fc.bias": np.zeros(2)}


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        (TENSORS, []),
        ({"state_dict": TENSORS, "epoch": 3}, ["took the entry state_dict, left epoch"]),
        (
            {"unaveraged_model_state_dict": {}, "model_state_dict": TENSORS},
            ["took the entry model_state_dict, left unaveraged_model_state_dict"],
        ),
        ({"best": {}, "last": TENSORS}, ["took the entry last, left best"]),
        (
            {"model": {"state_dict": TENSORS}},
            ["took the entry model", "took the entry state_dict"],
        ),
    ],
)
def test_the_network_is_found_in_a_checkpoint(checkpoint, said):
    assert state_of(checkpoint) == (TENSORS, said)


def test_an_entry_is_taken_by_its_name():
    assert state_of({"state_dict": {}, "ema": TENSORS}, "ema")[0] == TENSORS


@pytest.mark.parametrize(
    ("checkpoint", "key", "message"),
    [
        ([1], None, "holds a list; expected tensors by name"),
        ({"state_dict": {}}, None, "expected tensors by name, found none"),
        ({"epoch": 3, **TENSORS}, None, "epoch not among them; name their entry with --key"),
        ({"state_dict": TENSORS}, "ema", "has no entry ema; expected one of state_dict"),
    ],
)
def test_other_checkpoints_are_refused(checkpoint, key, message):
    with pytest.raises(CheckpointError, match=message):
        state_of(checkpoint, key)


def test_prefixes_that_all_names_share_are_dropped():
    prefixed = {f"module.0.{name}": value for name, value in TENSORS.items()}
    assert without_prefixes(prefixed) == (
        TENSORS,
        ["dropped the prefix module.", "dropped the prefix 0."],
    )
    # The buffers of a wrapper stay beside the prefix of its network.
    wrapped = {"mu": np.ones(3), "model.conv1.weight": np.ones(1)}
    assert without_prefixes(wrapped) == (wrapped, [])


def test_the_script_needs_pytorch_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", pt_to_safetensors.__file__, "a.pt", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "pt_to_safetensors: needs torch: pip install torch safetensors\n"
