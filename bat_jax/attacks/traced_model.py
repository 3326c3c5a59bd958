"""A model as a jaxpr and its constants, so that programs do not embed the parameters."""

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
    """A logits function split into its program and the arrays it closes over.

    Otherwise every program that calls the function would embed the closed-over arrays as constants,
    with one copy per attack and batch size. Here they are arguments.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits.
      place: puts an array on the devices of the programs.
    """

    def __init__(self, logits_fn: LogitsFn, place: Callable[[Any], Any]) -> None:
        # Constants of a jitted function are inaccessible, so unwrap it.
        self._logits_fn = (
            inspect.unwrap(logits_fn, stop=lambda f: not isinstance(f, _JITTED))
            if isinstance(logits_fn, _JITTED)
            else logits_fn
        )
        self._place = place
        self._traces: dict[tuple[int, ...], ClosedJaxpr] = {}
        # Keeps the original alive, because ids are unique only among live objects.
        self._placed: dict[int, tuple[Any, Any]] = {}

    def constants(self, shape: tuple[int, ...]) -> list[Any]:
        """Returns the arrays the model closes over, with one copy for all batch sizes."""
        placed = []
        for constant in self._trace(shape).consts:
            if id(constant) not in self._placed:
                self._placed[id(constant)] = (constant, self._place(constant))
            placed.append(self._placed[id(constant)][1])
        return placed

    def bound(self, shape: tuple[int, ...], constants: list[Any]) -> LogitsFn:
        """Returns the logits function for images of one shape, with the given constants."""
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
