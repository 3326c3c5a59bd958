"""A model as a jaxpr and its constants, so that no program embeds the parameters."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Float

from bat_jax.attacks import checks
from bat_jax.attacks.classifier import Images, LogitsFn

_JITTED = type(jax.jit(lambda: 0))


class TracedModel:
    """A logits function taken apart into its program and the arrays it closes over.

    A closed-over array becomes a constant of every program that calls the function, one copy for
    each attack and batch size, in memory and in the compiler's input. Here it becomes an argument.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits.
      place: puts an array where the programs run.
    """

    def __init__(self, logits_fn: LogitsFn, place: Callable[[Any], Any]) -> None:
        # Constants inside a jitted function are out of reach: the function it wraps is not.
        self._logits_fn = (
            inspect.unwrap(logits_fn, stop=lambda f: not isinstance(f, _JITTED))
            if isinstance(logits_fn, _JITTED)
            else logits_fn
        )
        self._place = place
        self._traces: dict[tuple[int, ...], ClosedJaxpr] = {}
        # The original is kept beside its copy: an id is unique only while its object lives.
        self._placed: dict[int, tuple[Any, Any]] = {}

    def constants(self, shape: tuple[int, ...]) -> list[Any]:
        """Returns the arrays the model closes over, one copy whatever the batch size."""
        placed = []
        for constant in self._trace(shape).consts:
            if id(constant) not in self._placed:
                self._placed[id(constant)] = (constant, self._place(constant))
            placed.append(self._placed[id(constant)][1])
        return placed

    def bound(self, shape: tuple[int, ...], constants: list[Any]) -> LogitsFn:
        """Returns the logits function of images of one shape, its constants given."""
        call = jaxpr_as_fun(ClosedJaxpr(self._trace(shape).jaxpr, constants))

        def logits_fn(images: Images) -> Float[Array, "batch classes"]:
            (logits,) = call(images)
            return logits

        return logits_fn

    def _trace(self, shape: tuple[int, ...]) -> ClosedJaxpr:
        if shape not in self._traces:
            with jax.default_matmul_precision("highest"):
                self._traces[shape] = jax.make_jaxpr(self._checked)(
                    jax.ShapeDtypeStruct(shape, jnp.float32)
                )
        return self._traces[shape]

    def _checked(self, images: Images) -> Float[Array, "batch classes"]:
        return checks.logits_of(self._logits_fn, images).astype(jnp.float32)
