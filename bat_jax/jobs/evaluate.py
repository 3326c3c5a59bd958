"""Evaluates a finished run again: another epsilon, norm, or list of attacks."""

from typing import Any

from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax.errors import UserError
from bat_jax.jobs.final import evaluate
from bat_jax.runtime import distributed
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.saved import read_run, read_states


def evaluate_run(
    config: ConfigDict, workdir: str | AnyPath | None = None
) -> tuple[dict[str, Any], AnyPath]:
    """Evaluates the checkpoints of a run; returns the content of results.json and its folder.

    Args:
      config: from `configs/evaluation.py`: the run, and the changes to its config.
      workdir: folder of the results; defaults to `evaluation-<norm>-<epsilon>` in the run's folder.

    Raises:
      UserError: there is no such run, or its data are missing or have changed.
    """
    configs.check(config)
    if config.run is None:
        raise UserError(
            "config.run is not set; expected a run's folder, such as --config.run=runs/NAME, or"
            " config.weights, a safetensors file"
        )
    run = as_path(config.run)
    with distributed.agreed():
        experiment = read_run(run, config)
    settings = experiment.config
    if workdir is None:
        workdir = run / f"evaluation-{settings.attack.norm}-{settings.attack.epsilon:.4g}"
    workdir = as_path(workdir)
    if workdir.resolve() == run.resolve():
        raise UserError(f"{workdir}: is the run itself; expected a folder of its own")
    if (run / "checkpoints").resolve() in (workdir.resolve(), *workdir.resolve().parents):
        raise UserError(f"{workdir}: is among the run's checkpoints; expected a folder of its own")
    with workdirs.opened(workdir):
        states = read_states(experiment, run)
        workdirs.claim(
            workdir,
            settings,
            experiment.digests(),
            defaults=configs.defaults_of(settings),
            # AutoAttack continues from its file, to a narrower interval or the exact verdict.
            free=("evaluation.tolerance",),
        )
        seconds = states["last"].seconds
        chosen = {name: states[name] for name in config.checkpoints}
        return evaluate(experiment, chosen, workdir, seconds=seconds), workdir
