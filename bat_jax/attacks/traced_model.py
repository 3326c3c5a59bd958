"""A model as a jaxpr and its constants, so that programs do not embed the parameters."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Float, Key

from bat_jax.attacks import checks
from bat_jax.attacks.classifier import Images, LogitsFn, RandomLogitsFn

_JITTED = type(jax.jit(lambda: 0))


class TracedModel:
    """A logits function split into its program and the arrays it closes over.

    Otherwise every program that calls the function would embed the closed-over arrays as constants,
    with one copy per attack and batch size. Here they are arguments.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; with a `key_type`, images and a key to logits.
      place: puts an array on the devices of the programs.
      key_impl: the implementation of the keys that a randomised model takes, one per image. Every
        image is evaluated by itself, so that its draws do not depend on the rest of the batch.
      precision: of matrix products whose operands are float32.
    """

    def __init__(
        self,
        logits_fn: LogitsFn | RandomLogitsFn,
        place: Callable[[Any], Any],
        key_impl: Any = None,
        precision: str = "highest",
    ) -> None:
        # Constants of a jitted function are inaccessible, so unwrap it.
        self._logits_fn: Callable[..., Any] = (
            inspect.unwrap(logits_fn, stop=lambda f: not isinstance(f, _JITTED))
            if isinstance(logits_fn, _JITTED)
            else logits_fn
        )
        self._place = place
        self._key_impl = key_impl
        self._precision = precision
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

    def bound(self, shape: tuple[int, ...], constants: list[Any]) -> Callable[..., Any]:
        """Returns the logits function for images of one shape, with the given constants.

        It takes images, and the keys of images if the model is randomised.
        """
        call = jaxpr_as_fun(ClosedJaxpr(self._trace(shape).jaxpr, constants))

        def logits_fn(*inputs: Any) -> Float[Array, "batch classes"]:
            (logits,) = call(*inputs)
            return logits

        return logits_fn

    def _trace(self, shape: tuple[int, ...]) -> ClosedJaxpr:
        if shape not in self._traces:
            inputs = [jax.ShapeDtypeStruct(shape, jnp.float32)]
            if self._key_impl is not None:
                key = jax.random.key(0, impl=self._key_impl)
                inputs.append(jax.ShapeDtypeStruct(shape[:1], key.dtype))
            with jax.default_matmul_precision(self._precision):
                self._traces[shape] = jax.make_jaxpr(self._checked)(*inputs)
        return self._traces[shape]

    def _checked(
        self, images: Images, keys: Key[Array, " batch"] | None = None
    ) -> Float[Array, "batch classes"]:
        if keys is None:
            return checks.logits_of(self._logits_fn, images).astype(jnp.float32)

        def one(image: Float[Array, "height width channels"], key: Key[Array, ""]) -> Array:
            drawn = checks.logits_of(lambda images: self._logits_fn(images, key), image[None])
            return drawn[0].astype(jnp.float32)

        return jax.vmap(one)(images, keys)
