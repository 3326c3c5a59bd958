"""Evaluates a finished run again: another epsilon, norm, or list of attacks."""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from bat_jax import distributed
from bat_jax import workdir as workdirs
from bat_jax.errors import UserError
from bat_jax.jobs.final import evaluate
from bat_jax.storage import AnyPath, as_path
from bat_jax.training.checkpoints import Checkpoints, Saved
from bat_jax.training.experiment import Experiment, build, score_name
from bat_jax.validation import one_of


def evaluate_run(
    config: ConfigDict, workdir: str | AnyPath | None = None
) -> tuple[dict[str, Any], AnyPath]:
    """Evaluates the checkpoints of a run, and returns what results.json holds and where it is.

    Args:
      config: from `configs/evaluation.py`: the run, and what to change of its own config.
      workdir: where the results go; by default `evaluation-<norm>-<epsilon>` in the run's folder.

    Raises:
      UserError: there is no such run, or its data are not found or have changed.
    """
    if config.run is None:
        raise UserError("config.run is not set; expected a run's folder, as --config.run=runs/NAME")
    run = as_path(config.run)
    with distributed.agreed():
        experiment = read_run(run, config)
    settings = experiment.config
    if workdir is None:
        workdir = run / f"evaluation-{settings.attack.norm}-{settings.attack.epsilon:.4g}"
    workdir = as_path(workdir)
    if workdir.resolve() == run.resolve():
        raise UserError(f"--workdir {workdir}: is the run itself; expected a folder of its own")
    for name in config.checkpoints:
        one_of("checkpoints", name, ("best", "last"))
    with workdirs.opened(run), workdirs.opened(workdir):
        states = read_states(experiment, run)
        workdirs.claim(workdir, settings, experiment.digests())
        seconds = states["last"].seconds
        chosen = {name: states[name] for name in config.checkpoints}
        return evaluate(experiment, chosen, workdir, seconds=seconds), workdir


def read_run(run: AnyPath, changes: ConfigDict | None = None) -> Experiment:
    """Returns a run's experiment, its data checked against what it was trained on.

    Args:
      run: its folder.
      changes: sections of a config whose fields replace the run's own where they are set.

    Raises:
      UserError: there is no such run, or its data are not found or have changed.
    """
    path = run / "config.json"
    config, digests = workdirs.read(path)
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
    """Returns the `best` and the `last` state of a run.

    Raises:
      UserError: it has no whole checkpoint.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the run's checkpoints: train it first")
    checkpoints = Checkpoints(
        folder,
        keep=experiment.config.checkpoint.keep,
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
