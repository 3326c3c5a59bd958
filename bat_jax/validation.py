"""Whether the fields of a config are in their ranges, each told by its name."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from ml_collections import ConfigDict

from bat_jax.backend import Lowering
from bat_jax.errors import UserError


def one_of(field: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises a UserError unless the field's value is one of the choices."""
    if value not in choices:
        raise UserError(f"config.{field} is {value!r}; expected one of {', '.join(choices)}")


def validate(config: ConfigDict) -> None:
    """Raises a UserError for the first field out of its range, by name.

    Names of data sets and models are left to those who know them.
    """
    _check_finite(config)
    if config.job == "memorization":
        _check_memorization(config)
    one_of("model.dtype", config.model.dtype, ("float32", "bfloat16"))
    if config.model.lowering is not None:
        one_of("model.lowering", config.model.lowering, get_args(Lowering))
    one_of("model.stem", config.model.stem, ("cifar", "tiny_imagenet"))
    one_of("attack.norm", config.attack.norm, ("linf", "l2"))
    one_of("attack.batch_norm", config.attack.batch_norm, ("running", "batch"))
    one_of("train.schedule.name", config.train.schedule.name, ("piecewise", "cosine", "one_cycle"))
    one_of("evaluation.select_by", config.evaluation.select_by, ("pgd", "clean"))
    for loss in config.evaluation.losses:
        one_of("evaluation.losses", loss, ("cross_entropy", "margin"))
    for attack in config.evaluation.attacks:
        choices = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
        one_of("evaluation.attacks", attack, choices)
    for state in config.evaluation.attacked:
        one_of("evaluation.attacked", state, ("best", "last"))
    bat = config.objective.bat
    one_of("objective.bat.gate", bat.gate, ("misclassified", "all", "memorized"))
    one_of("objective.bat.confidence", bat.confidence, ("adversarial", "clean"))
    one_of("objective.bat.normalize", bat.normalize, ("sum", "none"))
    one_of("objective.bat.similarity", bat.similarity, ("cosine", "dot"))
    one_of("objective.bat.denominator", bat.denominator, ("all", "negatives"))
    one_of("objective.bat.pooling", bat.pooling, ("sum", "mean"))
    for field, value, low in (
        ("data.validation", config.data.validation, 0 if config.job == "memorization" else 1),
        ("data.subset", config.data.subset, 0),
        ("data.crop_padding", config.data.crop_padding, 0),
        ("evaluation.track.images", config.evaluation.track.images, 0),
        ("evaluation.track.num_steps", config.evaluation.track.num_steps, 0),
        ("model.width", config.model.width or 1, 1),
        ("objective.trades.beta", config.objective.trades.beta, 0),
        ("objective.mart.beta", config.objective.mart.beta, 0),
        ("objective.bat.alpha", bat.alpha, 0),
        ("objective.bat.beta_dl", bat.beta_dl, 0),
        ("attack.epsilon", config.attack.epsilon, 0),
        ("attack.step_size", config.attack.step_size, 0),
        ("attack.num_steps", config.attack.num_steps, 0),
        ("train.epochs", config.train.epochs, 1),
        ("train.steps", 1 if config.train.steps is None else config.train.steps, 1),
        ("train.batch_size", config.train.batch_size, 1),
        ("train.accumulation", config.train.accumulation, 1),
        ("train.optimizer.learning_rate", config.train.optimizer.learning_rate, 0),
        ("train.optimizer.momentum", config.train.optimizer.momentum, 0),
        ("train.optimizer.weight_decay", config.train.optimizer.weight_decay, 0),
        ("train.schedule.boundaries", min(config.train.schedule.boundaries, default=0), 0),
        ("train.schedule.factor", config.train.schedule.factor, 0),
        ("train.log_every", config.train.log_every, 1),
        ("evaluation.num_steps", config.evaluation.num_steps, 0),
        ("evaluation.step_size", config.evaluation.step_size, 0),
        ("evaluation.subset", config.evaluation.subset, 0),
        ("evaluation.batch_size", config.evaluation.batch_size, 1),
        ("checkpoint.every_epochs", config.checkpoint.every_epochs, 1),
        ("checkpoint.keep", config.checkpoint.keep, 1),
        ("parallel.devices", config.parallel.devices, 0),
    ):
        if not value >= low:
            raise UserError(f"config.{field} is {value}; expected {low} or more")
    if not bat.temperature > 0:
        raise UserError(f"config.objective.bat.temperature is {bat.temperature}; expected above 0")
    if len(set(config.evaluation.attacks)) < len(config.evaluation.attacks):
        raise UserError(
            f"config.evaluation.attacks is {config.evaluation.attacks}; expected each once"
        )
    if config.evaluation.attacks and not config.attack.epsilon > 0:
        raise UserError(
            f"config.attack.epsilon is {config.attack.epsilon}; expected above 0 for AutoAttack, or"
            " config.evaluation.attacks=()"
        )
    if not 0 <= config.train.schedule.rise <= 1:
        raise UserError(
            f"config.train.schedule.rise is {config.train.schedule.rise}; expected 0 to 1, a part"
        )
    if not 0 <= config.train.ema < 1:
        raise UserError(f"config.train.ema is {config.train.ema}; expected from 0 to below 1")


def _check_memorization(config: ConfigDict) -> None:
    """Raises a UserError for a field of `config.memorization` out of its range."""
    settings = config.memorization
    if settings.members < 1:
        raise UserError(f"config.memorization.members is {settings.members}; expected 1 or more")
    if not 0 < settings.ratio < 1:
        raise UserError(
            f"config.memorization.ratio is {settings.ratio}; expected above 0 and below 1, the part"
            " of the training images that a member is trained on"
        )
    one_of("memorization.statistic", settings.statistic, ("correct", "probability"))
    one_of("memorization.inputs", settings.inputs, ("clean", "adversarial"))
    one_of("memorization.influence", settings.influence, ("class", "full", "none"))
    if settings.execution is not None:
        one_of("memorization.execution", settings.execution, ("map", "vmap"))
    if config.data.validation:
        raise UserError(
            f"config.data.validation is {config.data.validation}; expected 0: the subsets are drawn"
            " from all training images, and no checkpoint is chosen"
        )


def _check_finite(config: Mapping[str, Any], prefix: str = "") -> None:
    """Raises a UserError for a number that is NaN or infinite, or a boundary that is no number."""
    for name, value in config.items():
        field = f"{prefix}{name}"
        if isinstance(value, ConfigDict):
            _check_finite(value, f"{field}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{field} is {value}; expected a finite number")
        elif name == "boundaries" and not all(isinstance(v, int | float) for v in value):
            raise UserError(f"config.{field} is {value!r}; expected epochs, as (100.0, 105.0)")
