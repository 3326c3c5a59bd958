"""The options of the recipe that a run used, in words."""

from collections.abc import Mapping
from typing import Any

from bat_jax.methods import has_attack

# By field: the words for a value, unless it is absent, false or 0.
_SWITCHES = {
    "train.schedule.warmup_epochs": "learning rate warmed up over {:g} epochs",
    "attack.warmup_epochs": "epsilon warmed up over {:g} epochs",
    "train.label_smoothing": "labels smoothed by {:g}",
    "data.cutmix": "CutMix",
    "train.optimizer.nesterov": "Nesterov momentum",
    "train.optimizer.clip_norm": "gradients clipped to norm {:g}",
    "data.resized_crop": "random crops from {:.0%} of the area, resized",
    "model.resize": "images resized to {} pixels",
    "train.ema": "moving average of decay {:g}",
}
# By field and value.
_CHOICES = {
    ("train.ema_warmup", True): "with a rising decay",
    ("train.optimizer.name", "adamw"): "AdamW",
    ("model.activation", "silu"): "SiLU",
}


def recipe(config: Mapping[str, Any]) -> str:
    """Returns the options that are on, as text, which may be empty.

    Args:
      config: the plain config of a run, possibly from a version without some of the options.
    """
    method = _value(config, "objective.name")
    # The attack of a method without one has default settings, which mean nothing.
    ignored = ("attack.",) if method is not None and not has_attack(method) else ()
    words = [
        text.format(value)
        for field, text in _SWITCHES.items()
        if (value := _value(config, field)) and not field.startswith(ignored)
    ]
    words += [text for (field, value), text in _CHOICES.items() if _value(config, field) == value]
    optimizer = _value(config, "train.optimizer.name")
    if optimizer and optimizer.startswith("optax:"):
        words.append(optimizer)
    layer_decay = _value(config, "train.optimizer.layer_decay")
    if layer_decay is not None and layer_decay < 1:
        words.append(f"layer-wise decay {layer_decay:g} of the learning rate")
    start = _value(config, "train.swa_start_epoch")
    if start is not None:
        words.append(f"equal average of epochs from {start}")
    if _value(config, "data.extra") is not None:
        words.append(f"{_value(config, 'data.extra_fraction'):.0%} extra images")
    return ", ".join(words)


def _value(config: Mapping[str, Any], field: str) -> Any:
    """Returns a field by its dotted name, or None if the config does not have it."""
    found: Any = config
    for part in field.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
