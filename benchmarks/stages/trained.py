"""Training steps of an experiment, without the folder, records and checkpoints of a run."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bat_jax import parallel
from bat_jax.training.experiment import Experiment
from bat_jax.training.flops import lowered_step, step_flops
from bat_jax.training.state import TrainState


def orders(experiment: Experiment) -> Iterator[jax.Array]:
    """Yields the order of each epoch, on the experiment's devices."""
    epoch = 0
    while True:
        order = experiment.order(experiment.config.seed, epoch)
        yield parallel.replicate(np.asarray(order), experiment.mesh)
        epoch += 1


def train(experiment: Experiment, steps: int) -> tuple[TrainState, list[float]]:
    """Returns the state after `steps` steps, and the loss of each."""
    state, root, data = experiment.initial_state(), experiment.root(), experiment.train_data()
    losses: list[Any] = []
    every_order = orders(experiment)
    for number in range(steps):
        if number % experiment.steps_per_epoch == 0:
            order = next(every_order)
        state, metrics = experiment.train_step(state, data, order, root)
        losses.append(metrics["loss"])
    return jax.block_until_ready(state), [float(loss) for loss in losses]


@dataclasses.dataclass
class Timed:
    """A compiled training step that takes steps on request.

    Attributes:
      compile_seconds: of its compilation, autotuning included.
      bytes: that the program holds while it runs.
      flops: of a step, as plain convolutions.
    """

    compile_seconds: float
    bytes: int
    flops: float
    _step: Any
    _state: TrainState
    _inputs: tuple[Any, ...]

    @classmethod
    def of(cls, experiment: Experiment) -> "Timed":
        """Compiles the step of an experiment and takes one."""
        began = time.perf_counter()
        step = lowered_step(experiment).compile()
        seconds = time.perf_counter() - began
        memory: Any = step.memory_analysis()
        held = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        inputs = (experiment.train_data(), next(orders(experiment)), experiment.root())
        found = cls(seconds, held, step_flops(experiment), step, experiment.initial_state(), inputs)
        found.take(1)
        return found

    def take(self, steps: int) -> float:
        """Returns the mean seconds of `steps` steps, without waiting between them."""
        began = time.perf_counter()
        for _ in range(steps):
            self._state, metrics = self._step(self._state, *self._inputs)
        jax.block_until_ready((self._state, metrics))
        return (time.perf_counter() - began) / steps
