"""Runs iterative attacks on batches of static shape, on one or more devices.

All state of an attack is per image (`bat_jax.attacks.protocol`), so the engine may drop images that
are done, continue with a smaller batch, or share the batch among devices, without changing the
draws and iterates of the other images.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt32

from bat_jax.attacks.classifier import HostImages, Images, LogitsFn, RandomLogitsFn
from bat_jax.attacks.draws import folded
from bat_jax.attacks.protocol import Attack, Outcome, Problem
from bat_jax.attacks.traced_model import TracedModel
from bat_jax.errors import UserError
from bat_jax.kernels import programs

Loop = Literal["host", "device"]

# The first batch of an attack is padded to a multiple of 1 / _FINE of the batch size. Each distinct
# shape costs a compilation, so that one that was compiled before is used again if it is larger by
# at most 1 / _COARSE of the batch size, and others are padded to a multiple of 1 / _COARSE.
_FINE = 32
_COARSE = 8


class HostProblem(NamedTuple):
    """The `Problem` of a whole batch, on the host."""

    images: HostImages
    labels: Int[np.ndarray, " batch"]
    targets: Int[np.ndarray, " batch"]
    key_data: UInt32[np.ndarray, "batch words"]
    key_impl: Any
    scale: Float[np.ndarray, " batch"] | None


class Engine:
    """A model, the devices it runs on and the programs compiled for it.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; any JAX function, closed over its parameters.
      batch_size: how many images to attack at a time, over all devices together.
      loop: `host` calls a compiled step repeatedly, `device` compiles the loop. Defaults to `host`
        on CPU, whose back end runs convolutions inside a loop on a single thread.
      devices: the devices that share each batch; defaults to all local ones.
      key_impl: the implementation of keys, if `logits_fn` takes images and a key; see
        `TracedModel`.
      precision: of matrix products, as in `jax.default_matmul_precision`.

    Raises:
      UserError: an unknown loop.
    """

    def __init__(
        self,
        logits_fn: LogitsFn | RandomLogitsFn,
        *,
        batch_size: int,
        loop: Loop | None = None,
        devices: Sequence[jax.Device] | None = None,
        key_impl: Any = None,
        precision: str = "highest",
    ) -> None:
        devices = jax.local_devices() if devices is None else list(devices)
        mesh = jax.make_mesh(
            (len(devices),), ("images",), axis_types=(AxisType.Auto,), devices=devices
        )
        replicated = NamedSharding(mesh, PartitionSpec())
        self._shared = NamedSharding(mesh, PartitionSpec("images"))
        self._model = TracedModel(
            logits_fn, lambda array: jax.device_put(array, replicated), key_impl, precision
        )
        if loop not in (None, *get_args(Loop)):
            raise UserError(f"loop: {loop!r}; expected {' or '.join(get_args(Loop))}, or None")
        self._loop = _loop() if loop is None else loop
        self._fine, self._coarse = (
            sorted(
                {_multiple(batch_size * part / parts, len(devices)) for part in range(1, parts + 1)}
            )
            for parts in (_FINE, _COARSE)
        )
        self._forward: dict[tuple[int, ...], Callable[..., Any]] = {}
        self._programs: dict[Any, tuple[Callable[..., Any], Callable[..., Any]]] = {}
        self._key_impl = key_impl
        self._precision = precision
        self.batch_size = batch_size

    def logits(
        self, images: HostImages, key_data: UInt32[np.ndarray, "images words"] | None = None
    ) -> Float[np.ndarray, "images classes"]:
        """Returns float32 logits for any number of images.

        Args:
          images: x in [0, 1].
          key_data: the words of one key per image, if the model is randomised.
        """
        parts = []
        for first in range(0, len(images), self.batch_size):
            part = images[first : first + self.batch_size]
            size = _at_least(len(part), self._coarse)
            inputs = [self._put(part, size)]
            shape = self._local_shape(inputs[0])
            if key_data is not None:
                words = key_data[first : first + self.batch_size]
                inputs.append(self._put_keys(words, self._key_impl, size))
            if shape not in self._forward:
                self._forward[shape] = self._compiled(
                    lambda constants, *x, shape=shape: self._model.bound(shape, constants)(*x),
                    shared=(False, *(True for _ in inputs)),
                )
            logits = self._forward[shape](self._model.constants(shape), *inputs)
            parts.append(np.asarray(logits)[: len(part)])
        return np.concatenate(parts)

    def run(
        self,
        attack: Attack,
        images: HostImages,
        labels: Int[np.ndarray, " batch"],
        targets: Int[np.ndarray, "batch rounds"],
        keys: Key[Array, " batch"],
        scale: Float[np.ndarray, " batch"] | None = None,
    ) -> Outcome:
        """Attacks one batch of at most `batch_size` images, with one round per target.

        Each round restarts the attack on the images not yet broken.

        Args:
          attack: the attack to run.
          images: x in [0, 1].
          labels: y.
          targets: the target classes in order; a single column for untargeted attacks.
          keys: one key per image.
          scale: the radius of every image's ball, in units of the attack's epsilon.
        """
        count = len(images)
        outcome = Outcome(images.copy(), np.zeros(count, bool), np.zeros(count, bool))
        attack_keys = folded(keys, jnp.int32(attack.purpose))
        for number, target in enumerate(targets.T):
            standing = np.flatnonzero(~outcome.found)
            if len(standing):
                key_data = np.asarray(jax.random.key_data(folded(attack_keys, jnp.int32(number))))
                impl = jax.random.key_impl(keys)
                whole = HostProblem(images, labels, target, key_data, impl, scale)
                self._run_round(attack, whole, standing, outcome)
        return outcome

    def _run_round(
        self,
        attack: Attack,
        whole: HostProblem,
        rows: Int[np.ndarray, " standing"],
        outcome: Outcome,
    ) -> None:
        problem = self._take(whole, rows, self._size(attack, len(rows)))
        begin, _ = self._attack_programs(attack, problem.images)
        state = begin(problem)
        is_left = np.ones(len(rows), bool)
        for first in range(0, attack.num_steps, attack.segment):
            last = min(first + attack.segment, attack.num_steps)
            state = self._advance(attack, problem, state, first, last)
            if first == 0:
                outcome.flat[rows] |= np.asarray(state.flat)[: len(rows)]
            # Finished images may stay in the batch and keep changing. Record an image only once,
            # so that its result does not depend on the rest of the batch.
            is_done = np.asarray(state.done)[: len(rows)] | (last == attack.num_steps)
            is_new = is_done & is_left
            if is_new.any():
                ended = rows[is_new]
                outcome.adversarial[ended] = np.asarray(state.adversarial)[: len(rows)][is_new]
                outcome.found[ended] = np.asarray(state.found)[: len(rows)][is_new]
                is_left &= ~is_new
            if not is_left.any():
                return
            size = self._size(attack, int(is_left.sum()))
            if 2 * size <= len(problem.labels):
                left = np.flatnonzero(is_left)
                rows, is_left = rows[left], np.ones(len(left), bool)
                problem = self._take(whole, rows, size)
                state = self._taken(state, left, size)

    def _advance(self, attack: Attack, problem: Problem, state: Any, first: int, last: int) -> Any:
        _, advance = self._attack_programs(attack, problem.images)
        constants = self._model.constants(self._local_shape(problem.images))
        if self._loop == "device":
            return advance(constants, np.int32(first), np.int32(last), problem, state)
        for number in range(first, last):
            state = advance(constants, np.int32(number), np.int32(number + 1), problem, state)
        return state

    def _attack_programs(
        self, attack: Attack, images: Images
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        shape = self._local_shape(images)
        if (attack, shape) not in self._programs:

            def advance(
                constants: list[Array],
                first: Int[Array, ""],
                last: Int[Array, ""],
                problem: Problem,
                state: Any,
            ) -> Any:
                logits_fn = self._model.bound(shape, constants)
                if self._loop == "host":
                    return attack.step(logits_fn, problem, first, state)
                return jax.lax.fori_loop(
                    first, last, lambda i, state: attack.step(logits_fn, problem, i, state), state
                )

            def begin(problem: Problem) -> Any:
                # `step` returns strong types; a weak one would compile the first step separately.
                return jax.tree.map(
                    lambda leaf: jnp.asarray(leaf, leaf.dtype), attack.begin(problem)
                )

            self._programs[attack, shape] = (
                self._compiled(begin, shared=(True,)),
                self._compiled(advance, shared=(False, False, False, True, True), donate=(4,)),
            )
        return self._programs[attack, shape]

    def _compiled(
        self,
        function: Callable[..., Any],
        *,
        shared: tuple[bool, ...],
        donate: tuple[int, ...] = (),
    ) -> Callable[..., Any]:
        """Compiles a function of a batch, with the images sharded over all devices."""
        specs = tuple(PartitionSpec("images") if split else PartitionSpec() for split in shared)
        mapped = jax.shard_map(
            function,
            mesh=self._shared.mesh,
            in_specs=specs,
            out_specs=PartitionSpec("images"),
            check_vma=False,
        )
        compiled = jax.jit(mapped, donate_argnums=donate)

        def call(*arguments: Any) -> Any:
            with jax.default_matmul_precision(self._precision):
                return compiled(*arguments)

        return call

    def _take(self, whole: HostProblem, rows: Int[np.ndarray, " rows"], size: int) -> Problem:
        return Problem(
            self._put(whole.images[rows], size),
            self._put(whole.labels[rows], size),
            self._put(whole.targets[rows], size),
            self._put_keys(whole.key_data[rows], whole.key_impl, size),
            None if whole.scale is None else self._put(whole.scale[rows], size),
        )

    def _taken(self, state: Any, rows: Int[np.ndarray, " rows"], size: int) -> Any:
        return jax.tree.map(lambda leaf: self._put(np.asarray(leaf)[rows], size), state)

    def _put(self, rows: np.ndarray, size: int) -> Array:
        return jax.device_put(_padded(rows, size), self._shared)

    def _put_keys(
        self, words: UInt32[np.ndarray, "rows words"], impl: Any, size: int
    ) -> Key[Array, " padded"]:
        keys = jax.random.wrap_key_data(jnp.asarray(_padded(words, size)), impl=impl)
        return jax.device_put(keys, self._shared)

    def _size(self, attack: Attack, count: int) -> int:
        """Returns the size to pad `count` images to, preferably one that is compiled."""
        compiled = [
            shape[0] * self._shared.mesh.size for one, shape in self._programs if one == attack
        ]
        most = _at_least(count, self._fine) + self._fine[-1] // _COARSE
        other = _at_least(count, self._coarse if compiled else self._fine)
        return min((size for size in compiled if count <= size <= most), default=other)

    def _local_shape(self, images: Images) -> tuple[int, ...]:
        return (len(images) // self._shared.mesh.size, *images.shape[1:])


def _loop() -> Loop:
    """Returns the loop that suits the default back end."""
    return "host" if programs.is_cpu_style() else "device"


def _at_least(count: int, sizes: Sequence[int]) -> int:
    return next(size for size in sizes if size >= count)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Pads to a batch size with copies of the first row, which are ignored."""
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])


def _multiple(count: float, factor: int) -> int:
    return math.ceil(count / factor) * factor
