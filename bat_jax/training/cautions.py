"""Warns of configs that are legal but probably unintended, such as trials of a few epochs."""

import logging

from ml_collections import ConfigDict

from bat_jax.config import default
from bat_jax.methods import Method
from bat_jax.training.experiment import Experiment

log = logging.getLogger(__name__)

# In runs of fewer steps, a first step without effect matters.
_FEW_STEPS = 20


# The fields of a model that only the models of this package read.
_OF_OUR_MODELS = (
    "width",
    "depth",
    "widening",
    "shortcut",
    "final_norm",
    "activation",
    "stem",
    "dtype",
    "sync_batch_norm",
    "mean",
    "std",
)


def warn_of_unused_model_fields(config: ConfigDict) -> None:
    """Warns of fields of the config that a model from outside does not read."""
    usual = default().model
    unused = [name for name in _OF_OUR_MODELS if config.model[name] != usual[name]]
    if unused:
        log.warning(
            "a model from outside makes its own choices: it does not read %s",
            ", ".join(f"config.model.{name}" for name in unused),
        )


def warn_of_plan(experiment: Experiment) -> None:
    """Warns as `warn` does, of the plan of an experiment."""
    total, per_epoch = experiment.total_steps, experiment.steps_per_epoch
    warn(experiment.config, experiment.method, epochs=total / per_epoch, total_steps=total)


def warn(config: ConfigDict, method: Method, *, epochs: float, total_steps: int) -> None:
    """Warns of stages that a run never reaches, and of attacks that are known to collapse.

    Args:
      config: the whole config.
      method: the method that the config names.
      epochs: the length of the training.
      total_steps: the length of the training in steps.
    """
    _warn_of_late_starts(config, method, epochs)
    _warn_of_long_warmups(config, method, epochs)
    _warn_of_learning_rate(config, epochs, total_steps)
    _warn_of_no_average(config, epochs)
    _warn_of_one_step(config, method)


def _warn_of_late_starts(config: ConfigDict, method: Method, epochs: float) -> None:
    """Warns if weights or AWP would never apply, as in a trial run of a few epochs."""
    awp = config.objective.awp
    if awp.gamma > 0 and awp.start_epoch >= epochs:
        log.warning(
            "training ends with epoch %g: AWP, which starts at epoch %g, is never used"
            " (config.objective.awp.start_epoch)",
            epochs,
            awp.start_epoch,
        )
    start = method.begins
    if start is not None and start >= epochs:
        log.warning(
            "training ends with epoch %g: the weights of %s, which start at epoch %g, are never"
            " used (config.objective.%s.start_epoch)",
            epochs,
            method.name,
            start,
            method.name,
        )


def _warn_of_long_warmups(config: ConfigDict, method: Method, epochs: float) -> None:
    """Warns if epsilon or the learning rate would never reach its value."""
    for name, what, length in (
        ("attack", "epsilon", config.attack.warmup_epochs if method.attack else 0.0),
        ("train.schedule", "the learning rate", config.train.schedule.warmup_epochs),
    ):
        if length > epochs:
            log.warning(
                "training ends with epoch %g: %s, which warms up over %g, never reaches its value"
                " (config.%s.warmup_epochs)",
                epochs,
                what,
                length,
                name,
            )


def _warn_of_learning_rate(config: ConfigDict, epochs: float, total_steps: int) -> None:
    """Warns if a short trial run covers little of a long run's schedule."""
    schedule = config.train.schedule
    if schedule.name == "piecewise" and schedule.boundaries and min(schedule.boundaries) >= epochs:
        log.warning(
            "training ends with epoch %g: the learning rate never decays"
            " (config.train.schedule.boundaries is %s)",
            epochs,
            tuple(schedule.boundaries),
        )
    if schedule.name == "one_cycle" and total_steps < _FEW_STEPS:
        log.warning(
            "training takes %d step(s): the first has a learning rate of 0, where one_cycle begins"
            " (config.train.schedule.name)",
            total_steps,
        )


def _warn_of_no_average(config: ConfigDict, epochs: float) -> None:
    """Warns if a short trial run ends before its parameters are averaged."""
    start = config.train.swa_start_epoch
    if start is not None and start + 1 > epochs:
        log.warning(
            "training ends with epoch %g: the average of epochs, which starts at the end of epoch"
            " %d, is never used (config.train.swa_start_epoch)",
            epochs,
            start + 1,
        )


def _warn_of_one_step(config: ConfigDict, method: Method) -> None:
    """Warns of a training attack that is known to collapse, unless the config watches for it."""
    if method.attack and config.attack.num_steps == 1 and not config.train.collapse.watch:
        advice = "config.train.collapse.watch=true reports it and keeps the last good state"
        if config.job == "memorization":
            advice = "nothing watches the members of an ensemble, so check their accuracy"
        log.warning(
            "the attack takes one step (config.attack.num_steps): such training can lose all"
            " robustness within an epoch; %s",
            advice,
        )
