"""The layout of a train state in a checkpoint: its parts and its memories, by name."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bat_jax.training.state import TrainState


def as_saved(state: TrainState) -> dict[str, Any]:
    """Returns the state as stored in checkpoints, by item name."""
    return {
        "step": state.step,
        "variables": state.variables,
        "opt_state": state.opt_state,
        "ema": state.ema,
        **state.memory,
    }


def from_saved(tree: Mapping[str, Any], like: TrainState) -> TrainState:
    """Inverts `as_saved`, with the structure of `like`."""
    fields = {name: value for name, value in tree.items() if name not in like.memory}
    return like.replace(**fields, memory={name: tree[name] for name in like.memory})


def leaves(tree: Any) -> dict[str, str]:
    """Returns the type and shape of every leaf by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
