"""Evaluates the weights in a safetensors file, such as those of a published checkpoint."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import interop, parallel
from bat_jax.data import load
from bat_jax.data.places import expanded
from bat_jax.errors import UserError
from bat_jax.evaluation.records import WEIGHTS
from bat_jax.jobs.final import evaluate
from bat_jax.runtime import distributed
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.building import build
from bat_jax.training.checkpoints import Saved
from bat_jax.training.saved import apply
from bat_jax.training.state import TrainState

_OF_THE_MODEL = ("mean", "std", "stem", "shortcut")


def evaluate_weights(
    config: ConfigDict, workdir: str | AnyPath | None = None
) -> tuple[dict[str, Any], AnyPath]:
    """Evaluates the weights of a file; returns the content of results.json and its folder.

    Args:
      config: from `configs/evaluation.py`: the file, its architecture and the data set.
      workdir: folder of the results; defaults to `runs/<file>-<norm>-<epsilon>`.

    Raises:
      UserError: the file is not of that architecture or does not fit the data set, or the data are
        missing.
    """
    configs.check(config)
    interop.check_architecture(config.architecture)
    settings = _settings(config)
    path = expanded(config.weights)
    with distributed.agreed():
        data = settings.data
        dataset = load(data.name, path=data.path, side=data.side, cache=data.cache)
        _fit_training_images(settings, len(dataset.train))
        chosen = {name: config.model[name] for name in _OF_THE_MODEL}
        imported = interop.import_weights(
            path, config.architecture, dataset.num_classes, dataset=dataset.name, **chosen
        )
        model: Any = imported.model
        channels = dataset.image_shape[-1]
        if len(model.mean) != channels:
            raise UserError(
                f"{path}: takes images of {len(model.mean)} channels; expected {channels}, as"
                f" {dataset.name} has: name other weights, or another config.data.name"
            )
        for name in ("width", "depth", "widening", "mean", "std", "stem", "shortcut", "final_norm"):
            if hasattr(model, name) and name in settings.model:
                settings.model[name] = getattr(model, name)
        experiment = build(settings, model=model, dataset=dataset, trains=False)
        # Nobody knows which images the weights were trained on: any may make a test image atypical.
        held_out = np.union1d(experiment.left_out, experiment.validation.ids)
        experiment = dataclasses.replace(experiment, left_out=held_out)
    if workdir is None:
        of_attack = f"{settings.attack.norm}-{settings.attack.epsilon:.4g}"
        workdir = as_path("runs") / f"{path.stem}-{of_attack}"
    workdir = as_path(workdir)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=parallel.replicate(imported.variables, experiment.mesh),
        opt_state=(),
        ema=None,
        memory={},
    )
    with workdirs.opened(workdir):
        workdirs.claim(
            workdir,
            settings,
            {**experiment.digests(), "weights": interop.digest(imported.variables)},
            defaults=configs.defaults_of(settings),
            free=("evaluation.tolerance",),
        )
        results = evaluate(experiment, {WEIGHTS: Saved(state, 0.0)}, workdir, seconds=0.0)
    return results, workdir


def _fit_training_images(settings: ConfigDict, examples: int) -> None:
    """Lowers the fields of training, which does not take place, to what a small data set allows."""
    if settings.data.validation + settings.train.batch_size > examples:
        settings.data.validation = 1
        settings.train.batch_size = min(settings.train.batch_size, examples - 1)


def _settings(config: ConfigDict) -> ConfigDict:
    """Returns the whole config of the evaluation, with defaults for fields that are not set."""
    settings = configs.default()
    settings.model.name = config.architecture
    # Only training runs read the other fields of the objective.
    settings.objective.name = "standard"
    apply(settings, config)
    return settings
