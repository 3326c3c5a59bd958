"""The optimizer that a config describes: the trainer's own, or any of optax."""

import inspect
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from bat_jax.errors import UserError, in_short

_PREFIX = "optax:"
# Arguments of optax's optimizers that limit weight decay to some parameters.
_MASKS = ("mask", "weight_decay_mask")


def create(config: ConfigDict, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optimizer of `config.train.optimizer`.

    `sgd`: SGD with momentum and coupled weight decay. `adamw`: Adam with decoupled weight decay
    (Loshchilov & Hutter, arXiv:1711.05101), w <- w - rate (m / (sqrt(v) + 1e-8) + decay w).
    `optax:NAME`: that function of optax with `options`, and with its own weight decay, or coupled
    weight decay, as for `sgd`, if it has none.

    With `clip_norm` c, g <- g min(1, c / ||g||) over all parameters, before weight decay. With
    `layer_decay` d, the update of the i-th of n `layers` is multiplied by d^(n - 1 - i).

    Raises:
      UserError: optax lacks the optimizer, or the optimizer cannot be used with these options.
    """
    parts = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    parts.append(_named(config, learning_rate))
    if config.layer_decay < 1:
        parts.append(_by_layer(tuple(config.layers), config.layer_decay))
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def check_layers(config: ConfigDict, params: Any) -> None:
    """Checks that every part of `params` is in exactly one of the layers that the config names.

    Raises:
      UserError: a part is missing or repeated, or a layer is not a part.
    """
    layers, parts = set(config.layers), set(params)
    wrong = sorted(parts - layers) or sorted(layers - parts)
    if wrong:
        raise UserError(
            f"config.train.optimizer.layers is {tuple(config.layers)}; expected every part of the"
            f" model's params once, from the input to the logits: {', '.join(sorted(parts))}"
        )


def _named(config: ConfigDict, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    decayed = None if config.decay_all else _mask
    if config.name.startswith(_PREFIX):
        return _of_optax(config, learning_rate, decayed)
    if config.name == "adamw":
        return _promoting(
            optax.adamw(
                learning_rate,
                b1=config.momentum,
                b2=config.second_momentum,
                weight_decay=config.weight_decay,
                mask=decayed,
            )
        )
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.sgd(learning_rate, config.momentum or None, config.nesterov),
    )


def _mask(params: Any) -> Any:
    """Returns which parameters are weights rather than biases or parameters of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _of_optax(
    config: ConfigDict, learning_rate: optax.Schedule, decayed: Callable[[Any], Any] | None
) -> optax.GradientTransformation:
    where = f"config.train.optimizer.name is {config.name!r}"
    make = _found(config.name.removeprefix(_PREFIX))
    taken = {} if make is None else inspect.signature(make).parameters
    if make is None or "learning_rate" not in taken:
        raise UserError(
            f"{where}; expected an optimizer of optax {optax.__version__}, a function of a"
            " learning_rate, such as optax:lion"
        )
    options = config.options.to_dict()
    unknown = [name for name in options if name not in taken or name == "learning_rate"]
    if unknown:
        raise UserError(
            f"config.train.optimizer.options has {', '.join(unknown)}; expected arguments of"
            f" {config.name} other than learning_rate: {', '.join(taken)}"
        )
    for name, value in options.items():
        if not _is_plain(value):
            raise UserError(
                f"config.train.optimizer.options has {name} {value!r}; expected finite numbers,"
                " texts and lists of them, which a run can record, such as 'bfloat16' for a type"
            )
    has_decay = "weight_decay" in taken
    masks = [name for name in _MASKS if name in taken]
    if has_decay:
        options.setdefault("weight_decay", config.weight_decay)
        if decayed is not None and masks:
            options.setdefault(masks[0], decayed)
        elif decayed is not None and options["weight_decay"]:
            raise UserError(
                f"config.train.optimizer.decay_all is False; expected True for {config.name}, whose"
                " weight decay takes no mask"
            )
    try:
        optimizer = _promoting(make(learning_rate, **options))
        _try(optimizer)
    # The optimizer is not part of this package and may raise anything.
    except Exception as error:
        raise UserError(
            f"{where} with options {options}; it fails ({in_short(error)}); expected"
            " an optimizer that needs nothing but gradients and parameters"
        ) from error
    if has_decay:
        return optimizer
    return optax.chain(optax.add_decayed_weights(config.weight_decay, decayed), optimizer)


def _is_plain(value: Any) -> bool:
    """Returns whether a run's config.json can record a value."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _found(name: str) -> Callable[..., Any] | None:
    """Returns the function of optax with a name such as `lion` or `contrib.muon`, if any."""
    found: Any = optax
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if inspect.isfunction(found) else None


def _try(optimizer: optax.GradientTransformation) -> None:
    """Updates two parameters once, as shapes."""
    params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}

    def update(params: Any) -> Any:
        return optimizer.update(params, optimizer.init(params), params)[0]

    jax.eval_shape(update, params)


def _by_layer(layers: tuple[str, ...], decay: float) -> optax.GradientTransformation:
    """Multiplies the update of the i-th of n layers by decay^(n - 1 - i)."""
    factors = {name: decay ** (len(layers) - 1 - place) for place, name in enumerate(layers)}

    def scaled(updates: Any, params: Any) -> Any:
        del params

        def of_layer(path: Any, update: Float[Array, "..."]) -> Array:
            return update * factors[path[0].key]

        return jax.tree.map_with_path(of_layer, updates)

    return optax.stateless(scaled)


def _promoting(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets an optimizer raise floats to its integer count, as Adam does, under any promotion."""

    def update(
        gradients: Any, opt_state: optax.OptState, params: Any = None
    ) -> tuple[Any, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(gradients, opt_state, params)

    return optax.GradientTransformation(optimizer.init, update)
