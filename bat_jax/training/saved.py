"""A run as it was left: its experiment, from its config.json, and its checkpointed states."""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from bat_jax import methods
from bat_jax.config import default
from bat_jax.errors import UserError
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.plain import plain as as_plain
from bat_jax.runtime.storage import AnyPath
from bat_jax.training.checkpoints import Checkpoints, Saved
from bat_jax.training.experiment import Experiment, build, score_name


def read_run(run: AnyPath, changes: ConfigDict | None = None) -> Experiment:
    """Returns a run's experiment, its data checked against what it was trained on.

    Args:
      run: its folder.
      changes: sections of a config whose fields replace the run's own where they are set.

    Raises:
      UserError: there is no such run, or its data are not found or have changed.
    """
    path = run / "config.json"
    config, digests = _config(path)
    # Its checkpoints were scored by its own attack, whatever attacks them now.
    score = score_name(config)
    for section in ("attack", "evaluation", "memorization", "parallel", "data"):
        for field, value in (changes.get(section) or {}).items() if changes else ():
            if value is not None:
                config[section][field] = value
    experiment = dataclasses.replace(build(config), score=score)
    found = experiment.digests()
    # A model's normalisation may come from its training images, without those left out.
    for part, what, field in (
        ("train", f"on other train data than {experiment.dataset.name} holds", "data.path"),
        ("test", f"on other test data than {experiment.dataset.name} holds", "data.path"),
        ("exclude", f"without other images than {config.data.exclude} names", "data.exclude"),
    ):
        if found.get(part) != digests.get(part):
            raise UserError(
                f"{run}: was trained {what} now; give it the same ones with config.{field}"
            )
    return experiment


def read_states(experiment: Experiment, run: AnyPath) -> dict[str, Saved]:
    """Returns the `best` and the `last` state of a run, whose folder is left as it is.

    Raises:
      UserError: it has no whole checkpoint, or one of another structure.
      CheckpointError: one cannot be read for a reason of the system.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the run's checkpoints: train it first")
    checkpoints = Checkpoints(
        folder,
        keep=None,
        score=experiment.score,
        mesh=experiment.mesh,
    )
    try:
        shapes = jax.eval_shape(experiment.initial_state)
        last = checkpoints.latest(shapes)
        if last is None:
            raise UserError(f"{folder}: no checkpoint; expected the run's: train it first")
        return {"best": checkpoints.best(shapes), "last": last}
    finally:
        checkpoints.close()


def _config(path: AnyPath) -> tuple[ConfigDict, dict[str, str]]:
    """Returns the config of a run from its config.json, and the digests of its data.

    Raises:
      UserError: it is not there, or not the config of a run of this version.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; expected the folder of a run")
    plain, digests = workdirs.read(path)
    config = default()
    config.objective.name = _method(path, plain)
    methods.complete(config)
    workdirs.check_known(path, plain, as_plain(config))
    try:
        config.update(_with_tuples(plain))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not the config of a run of this version ({' '.join(str(error).split())})"
        ) from None
    return config, digests


def _method(path: AnyPath, plain: dict[str, Any]) -> str:
    """Returns the name of a run's method."""
    objective = plain.get("objective")
    name = objective.get("name") if isinstance(objective, dict) else None
    if not isinstance(name, str):
        raise UserError(f"{path}: has no objective.name; expected the config of a run")
    return name


def _with_tuples(plain: Any) -> Any:
    """Returns what JSON held with tuples for its lists, as configs have them."""
    if isinstance(plain, dict):
        return {name: _with_tuples(value) for name, value in plain.items()}
    return tuple(plain) if isinstance(plain, list) else plain
