"""Trains from a Python program, optionally with the caller's own model and data."""

import tempfile
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from bat_jax import outside
from bat_jax.data import Dataset
from bat_jax.errors import UserError
from bat_jax.jobs.train import prepared, run
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.saved import read_states


class Fitted(NamedTuple):
    """A finished training.

    Attributes:
      model: the model for evaluation, in float32.
      best: variables of the checkpoint with the best validation accuracy.
      last: variables at the end of training.
      results: the content of results.json: accuracies of both, with n and 95 % intervals.
    """

    model: nn.Module
    best: dict[str, Any]
    last: dict[str, Any]
    results: dict[str, Any]


def fit(
    config: ConfigDict,
    *,
    model: nn.Module | None = None,
    dataset: Dataset | None = None,
    workdir: str | AnyPath | None = None,
) -> Fitted:
    """Trains a config and evaluates the best and the last state on the test set.

    Args:
      config: from a config file's `get_config()`, or `bat_jax.config.default()`.
      model: replaces the one that the config names: any Flax module with
        `__call__(images, train=False, features=False)`, from images in [0, 1] to float32 logits,
        or to `(logits, features)` if `features` is true.
      dataset: replaces the one that the config names, as from `bat_jax.data.from_arrays`.
      workdir: the folder of the run; an interrupted run resumes. By default only the returned
        values are kept.

    Raises:
      UserError: the config, the model, the data or the folder are wrong.
      NonFiniteError: training stopped at a non-finite number.
      Interrupted: SIGTERM or SIGINT; with a workdir the state is saved.
    """
    for name, value, kind in (
        ("config", config, ConfigDict),
        ("model", model, nn.Module),
        ("dataset", dataset, Dataset),
    ):
        if not (isinstance(value, kind) or (value is None and name != "config")):
            raise UserError(
                f"fit: {name} is a value of type {type(value).__name__}; expected a {kind.__name__}"
            )
    if config.job != "train":
        raise UserError(f"config.job is {config.job!r}; expected 'train', which fit does")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        # Record the model and the data in the run's config, which may name them already.
        if model is not None and not outside.is_outside(config.model.name):
            config.model.name = f"{type(model).__module__}:{type(model).__qualname__}"
        if dataset is not None and not outside.is_outside(config.data.name):
            config.data.name = dataset.name
    if workdir is None:
        with tempfile.TemporaryDirectory(prefix="bat_jax-") as temporary:
            return _fit_in(as_path(temporary), config, model, dataset)
    return _fit_in(as_path(workdir), config, model, dataset)


def _fit_in(
    folder: AnyPath, config: ConfigDict, model: nn.Module | None, dataset: Dataset | None
) -> Fitted:
    experiment = prepared(config, folder, model=model, dataset=dataset)
    results = run(experiment, folder)
    states = read_states(experiment, folder)
    best, last = (jax.device_get(states[name].state.evaluated) for name in ("best", "last"))
    return Fitted(experiment.evaluated(), best, last, results)
