"""Checks fields of a config that must agree with one another."""

import math
import re

from ml_collections import ConfigDict

from bat_jax import fields
from bat_jax.errors import UserError

# Fewer margins hardly estimate their spread.
_LEAST_ON_A_SIDE = 8


def check(config: ConfigDict, *, trains: bool = True) -> None:
    """Checks a config of any job, each of whose fields is legal by itself.

    Args:
      config: of any job.
      trains: whether a training config is to train.

    Raises:
      UserError: fields contradict each other; the message names them.
    """
    if trains and config.job != "evaluation" and config.attack.norm == "l1":
        raise UserError(
            "config.attack.norm is l1; expected linf or l2: PGD has no step in L1; only"
            " configs/evaluation.py takes l1, for AutoAttack"
        )
    _check_attacked(config)
    if config.job == "evaluation":
        _check_evaluated(config)
        return
    _check_training_attack(config)
    _check_validation(config)
    _check_recipe(config.train)
    _check_crops(config.data)
    _check_placement(config)
    _check_job(config)
    _check_collapse(config)
    if "findings" in config:
        for section in ("variants", "arms"):
            _check_names(section, config.findings[section])


def _check_names(section: str, runs: ConfigDict) -> None:
    """Checks that the names of runs in a section of the findings can name folders."""
    for name in runs:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(
                f"config.findings.{section} has {fields.shown(name)}; expected names of letters,"
                " digits, '_', '-' and '.': they become names of folders"
            )


def _check_crops(data: ConfigDict) -> None:
    """Checks that images are cropped in one way."""
    if data.resized_crop is not None and data.crop_padding:
        raise UserError(
            f"config.data.resized_crop is {data.resized_crop} and config.data.crop_padding is"
            f" {data.crop_padding}; expected a crop_padding of 0 with resized crops"
        )


def _check_validation(config: ConfigDict) -> None:
    held_out = config.data.validation
    if config.job != "memorization":
        fields.refuse("data.validation", held_out, None if held_out else "1 or more")
    elif held_out:
        raise UserError(
            f"config.data.validation is {held_out}; expected 0: the subsets are drawn from all"
            " training images, and no checkpoint is chosen"
        )


def _check_attacked(config: ConfigDict) -> None:
    """Checks the evaluation's attacks; fields that default to the run's own are None."""
    attack, settings = config.attack, config.evaluation
    if attack.norm == "linf":
        for name, value in (
            ("attack.epsilon", attack.epsilon),
            ("attack.step_size", attack.get("step_size")),
            ("evaluation.step_size", settings.step_size),
        ):
            if value is not None and value > 1:
                raise UserError(
                    f"config.{name} is {fields.shown(value)}; expected at most 1, the largest"
                    f" change of a pixel in [0, 1]; {_of_255(value)}"
                )
    if attack.norm == "l1" and settings.losses != ():
        raise UserError(
            f"config.attack.norm is l1 and config.evaluation.losses is {settings.losses}; expected"
            " config.evaluation.losses=() for AutoAttack alone: PGD has no step in L1"
        )
    corruptions = settings.corruptions
    if corruptions.names is not None and corruptions.path is None:
        raise UserError(
            f"config.evaluation.corruptions.names is {fields.shown(corruptions.names)} without"
            " config.evaluation.corruptions.path; expected the folder of their files too: set it"
        )
    if corruptions.path is not None and config.data.get("tested"):
        raise UserError(
            f"config.data.tested is {config.data.tested}; expected 0 with"
            " config.evaluation.corruptions, which are those of test images"
        )
    if not settings.attacks:
        return
    if attack.epsilon is not None and not attack.epsilon > 0:
        raise UserError(
            f"config.attack.epsilon is {attack.epsilon}; expected above 0 for AutoAttack, or"
            " config.evaluation.attacks=()"
        )
    if settings.tolerance is not None:
        _check_tolerance(config)
    if not set(settings.attacked) & set(config.get("checkpoints", ("best", "last"))):
        raise UserError(
            f"config.evaluation.attacked is {settings.attacked}; expected a state that is"
            " evaluated, or config.evaluation.attacks=() to omit AutoAttack"
        )


def _check_evaluated(config: ConfigDict) -> None:
    """Checks that an evaluation names either a run or weights with all they need."""
    if config.weights is None:
        for field, value in (
            ("architecture", config.architecture),
            ("data.name", config.data.name),
            ("data.side", config.data.side),
            *((f"model.{name}", config.model[name]) for name in config.model),
        ):
            if value is not None:
                raise UserError(
                    f"config.{field} is {fields.shown(value)}; expected no value for a run, which"
                    " has its own: remove it, or set config.weights to a safetensors file"
                )
        return
    given = f"config.weights is {fields.shown(config.weights)}"
    if config.run is not None:
        raise UserError(
            f"{given} and config.run is {fields.shown(config.run)}; expected only one of them"
        )
    for field, value, example in (
        ("architecture", config.architecture, "that of the weights, such as dm_wide_resnet"),
        ("data.name", config.data.name, "the data set to evaluate on, such as cifar10"),
    ):
        if value is None:
            raise UserError(f"{given} and config.{field} is not set; expected {example}")


def _check_tolerance(config: ConfigDict) -> None:
    """Checks that the attacks that run on a sample come last."""
    from bat_jax.attacks import sampling

    attacks = config.evaluation.attacks
    if not sampling.slow_ones_last(attacks):
        raise UserError(
            f"config.evaluation.attacks is {attacks}; expected fab-t and square last with"
            " config.evaluation.tolerance, which runs them on a sample of the images that withstand"
            " the other attacks"
        )


def _of_255(value: float) -> str:
    """Returns advice on writing a value meant in units of 1/255."""
    return f"{value:g} of 255 gray levels is {value:g}/255, that is {value / 255:.4g}"


def _check_training_attack(config: ConfigDict) -> None:
    """Checks that the attack has an effect if the method trains on adversarial images."""
    from bat_jax import methods

    if methods.find(config.objective.name).attack is None:
        return
    attack = config.attack
    for name in ("num_steps", "step_size"):
        if not attack[name] > 0:
            raise UserError(
                f"config.attack.{name} is {attack[name]}; expected above 0 for the objective"
                f" {config.objective.name}, which trains on attacked images; to train on clean"
                " images, set config.objective.name=standard"
            )
    if attack.start_radius > 1 and attack.project:
        raise UserError(
            f"config.attack.start_radius is {attack.start_radius}; expected at most 1 with"
            " projection (config.attack.project), which moves the start back within epsilon"
        )
    if not attack.project and attack.num_steps > 1:
        raise UserError(
            f"config.attack.project is False; expected True for {attack.num_steps} steps, which"
            " would leave the ball of radius epsilon: only attacks of one step can do without"
            " projection"
        )


def _check_recipe(train: ConfigDict) -> None:
    """Checks that no option of the recipe excludes another."""
    schedule, optimizer = train.schedule, train.optimizer
    _check_optimizer(optimizer)
    if schedule.warmup_epochs and schedule.name == "one_cycle":
        raise UserError(
            f"config.train.schedule.warmup_epochs is {schedule.warmup_epochs}; expected 0 with"
            " one_cycle, which rises by itself: set config.train.schedule.rise instead"
        )
    if optimizer.nesterov and optimizer.name == "adamw":
        raise UserError(
            "config.train.optimizer.nesterov is True; expected False with adamw, whose update has"
            " no Nesterov step"
        )
    if optimizer.nesterov and not optimizer.momentum:
        raise UserError(
            "config.train.optimizer.nesterov is True; expected False without momentum"
            " (config.train.optimizer.momentum is 0): Nesterov's step looks ahead along it"
        )
    if train.swa_start_epoch is not None and train.ema:
        raise UserError(
            f"config.train.swa_start_epoch is {train.swa_start_epoch} and config.train.ema is"
            f" {train.ema}; expected only one of them: a run evaluates one average"
        )
    for name, value in (("ema_warmup", train.ema_warmup), ("ema_statistics", train.ema_statistics)):
        if value not in (False, "averaged") and not train.ema:
            raise UserError(
                f"config.train.{name} is {value}; expected its default without a moving average"
                " (config.train.ema is 0): set the decay, such as 0.995"
            )


def _check_optimizer(optimizer: ConfigDict) -> None:
    """Checks the optimizer's name, and that the optimizer reads the fields that are set."""
    name = optimizer.name
    is_optax = re.fullmatch(r"optax:[A-Za-z]\w*(\.[A-Za-z]\w*)*", name) is not None
    if not is_optax and name not in ("sgd", "adamw"):
        raise UserError(
            f"config.train.optimizer.name is {fields.shown(name)}; expected sgd, adamw or"
            " optax:NAME, an optimizer of optax, such as optax:lion"
        )
    if optimizer.options and not is_optax:
        raise UserError(
            f"config.train.optimizer.options is {fields.shown(dict(optimizer.options))}; expected"
            f" none with {name}, which has fields of its own: use optax:{name}"
        )
    if is_optax:
        for field, default in (("momentum", 0.9), ("second_momentum", 0.999), ("nesterov", False)):
            if optimizer[field] != default:
                raise UserError(
                    f"config.train.optimizer.{field} is {optimizer[field]}; expected its default,"
                    f" {default}, with {name}, which does not read it: set"
                    " config.train.optimizer.options"
                )
    if name == "sgd" and optimizer.second_momentum != 0.999:
        raise UserError(
            f"config.train.optimizer.second_momentum is {optimizer.second_momentum}; expected its"
            " default, 0.999, with sgd, which does not read it"
        )
    layers = tuple(optimizer.layers)
    if layers and not optimizer.layer_decay < 1:
        raise UserError(
            f"config.train.optimizer.layers is {fields.shown(layers)}; expected none without a"
            f" decay (config.train.optimizer.layer_decay is {optimizer.layer_decay}), such as 0.75"
        )
    if optimizer.layer_decay < 1 and not layers:
        raise UserError(
            f"config.train.optimizer.layer_decay is {optimizer.layer_decay}; expected 1 without"
            " config.train.optimizer.layers, the parts of the model's params from the input to the"
            " logits"
        )


def _check_collapse(config: ConfigDict) -> None:
    """Checks that the scores of checkpoints show a collapse, and that retries have a watch."""
    settings = config.train.collapse
    if settings.watch and config.evaluation.select_by != "pgd":
        raise UserError(
            f"config.train.collapse.watch is True and config.evaluation.select_by is"
            f" {config.evaluation.select_by}; expected pgd: on clean images, a collapsed state is"
            " the best"
        )
    if settings.retries and not settings.watch:
        raise UserError(
            f"config.train.collapse.retries is {settings.retries}; expected 0 unless"
            " config.train.collapse.watch is true, which finds collapses"
        )
    averages = {
        "train.ema": config.train.ema or None,
        "train.swa_start_epoch": config.train.swa_start_epoch,
    }
    for field, value in averages.items():
        if settings.retries and value is not None:
            raise UserError(
                f"config.train.collapse.retries is {settings.retries} and config.{field} is"
                f" {value}; expected one of them: the averaged weights, which are validated, show a"
                " collapse late"
            )


def _check_placement(config: ConfigDict) -> None:
    """Checks that nothing needs all images on the devices if they are to stay on the host."""
    if config.data.placement == "host" and config.train.swa_start_epoch is not None:
        raise UserError(
            f"config.data.placement is host and config.train.swa_start_epoch is"
            f" {config.train.swa_start_epoch}; expected no average of epochs, whose statistics need"
            " all images on the devices: use config.train.ema"
        )


def _check_job(config: ConfigDict) -> None:
    """Checks that an ensemble uses no option of single training runs."""
    if config.job != "memorization":
        return
    _check_estimator(config.memorization)
    if config.train.batch_size % config.train.accumulation:
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}; expected a multiple of"
            f" config.train.accumulation, {config.train.accumulation}"
        )
    for field, value, reason in (
        ("data.extra", config.data.extra, "members train on subsets of the data set alone"),
        ("data.placement", config.data.placement, "members hold their images on the devices"),
        ("train.swa_start_epoch", config.train.swa_start_epoch, "members do not average epochs"),
        ("train.collapse.watch", config.train.collapse.watch or None, "members are not validated"),
    ):
        if value is not None:
            raise UserError(
                f"config.{field} is {value}; expected its default for the job memorization:"
                f" {reason}"
            )


def _check_estimator(settings: ConfigDict) -> None:
    """Checks that an estimator can use the members' scores, and has enough members."""
    if settings.estimator != "margin":
        return
    if settings.statistic != "correct":
        raise UserError(
            f"config.memorization.statistic is {settings.statistic}; expected correct for the"
            " estimator margin, which estimates how often members are correct"
        )
    rarer = min(settings.ratio, 1 - settings.ratio)
    least = math.ceil(_LEAST_ON_A_SIDE / rarer)
    if settings.members < least:
        raise UserError(
            f"config.memorization.members is {settings.members}; expected at least {least} for the"
            f" estimator margin at config.memorization.ratio {settings.ratio:g}, about"
            f" {_LEAST_ON_A_SIDE} with and {_LEAST_ON_A_SIDE} without every image; or choose the"
            " estimator difference"
        )
