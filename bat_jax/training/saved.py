"""Reads an existing run: its experiment, from config.json, and its checkpointed states."""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from bat_jax import methods
from bat_jax.config import default
from bat_jax.errors import UserError, in_short
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.plain import plain as as_plain
from bat_jax.runtime.storage import AnyPath
from bat_jax.training.building import build, score_name
from bat_jax.training.checkpoints import Checkpoints, Saved
from bat_jax.training.experiment import Experiment


def read_run(run: AnyPath, changes: ConfigDict | None = None) -> Experiment:
    """Returns a run's experiment, after checking that its data have not changed.

    Args:
      run: the run's folder.
      changes: config sections; fields that are not None replace the run's own. None also replaces
        `evaluation.tolerance`, where it means the exact verdict.

    Raises:
      UserError: the run does not exist, or its data are missing or have changed.
    """
    path = run / "config.json"
    config, digests = _config(path)
    # The checkpoints were scored under the run's own attack, before any changes.
    score = score_name(config)
    # Only training needs extra images, and only evaluation needs corrupted images; they may be
    # large or on another machine.
    config.data.extra = None
    if changes is None or "corruptions" not in changes.get("evaluation", {}):
        config.evaluation.corruptions.update(path=None, names=None)
    if changes is not None:
        apply(config, changes)
    experiment = dataclasses.replace(build(config, trains=False), score=score)
    found = experiment.digests()
    # The model's normalisation may depend on the training images, without the excluded ones.
    for part, what, field in (
        ("train", f"training data other than {experiment.dataset.name} holds", "data.path"),
        ("test", f"test data other than {experiment.dataset.name} holds", "data.path"),
        ("exclude", f"excluded images other than {config.data.exclude} names", "data.exclude"),
    ):
        if found.get(part) != digests.get(part):
            raise UserError(
                f"{run}: was made with {what} now; expected the same: name them with config.{field}"
            )
    return experiment


def apply(config: ConfigDict, changes: ConfigDict) -> None:
    """Sets the fields of a config that an evaluation changes.

    Args:
      config: the whole config.
      changes: config sections; fields that are not None replace the config's. None also replaces
        `evaluation.tolerance`, where it means the exact verdict.
    """
    for section in ("attack", "evaluation", "memorization", "parallel", "data"):
        for field, value in (changes.get(section) or {}).items():
            if isinstance(value, ConfigDict):
                given = {name: one for name, one in value.items() if one is not None}
                config[section][field].update(given)
            elif value is not None or (section, field) == ("evaluation", "tolerance"):
                config[section][field] = value


def read_states(experiment: Experiment, run: AnyPath) -> dict[str, Saved]:
    """Returns the `best` and the `last` state of a run, without changing its folder.

    Raises:
      UserError: the run has no intact checkpoint, or one with another structure.
      CheckpointError: a system error prevented reading one.
    """
    folder = run / "checkpoints"
    if not folder.is_dir() and experiment.config.job == "memorization":
        raise UserError(
            f"{run}: holds an ensemble, which keeps no checkpoints; expected the folder of a single"
            " run"
        )
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
    """Returns the config and the data digests from a run's config.json.

    Raises:
      UserError: the file is missing, or is not a config of this version.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; expected the folder of a run")
    plain, digests = workdirs.read(path)
    if plain.get("job") == "findings":
        raise UserError(
            f"{path.parent}: holds findings; expected a single run: name a folder in"
            f" {path.parent / 'runs'}"
        )
    config = default()
    config.objective.name = _method(path, plain)
    methods.complete(config)
    workdirs.check_known(path, plain, as_plain(config))
    try:
        # The names of options are those of an optimizer.
        with config.train.optimizer.options.unlocked():
            config.update(_with_tuples(plain))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not the config of a run of this version ({in_short(error)})"
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
    """Converts the lists of JSON to the tuples of configs."""
    if isinstance(plain, dict):
        return {name: _with_tuples(value) for name, value in plain.items()}
    return tuple(plain) if isinstance(plain, list) else plain
