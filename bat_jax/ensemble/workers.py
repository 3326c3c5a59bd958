"""An ensemble on the CPU cores of one machine, in one process per device.

On CPU, XLA distributes every operation over the threads of all devices in the process, so that
members on two devices of one process wait for each other. Processes with separate cores do not. The
results are the same.
"""

import atexit
import contextlib
import dataclasses
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jaxtyping import Int, Int64
from ml_collections import ConfigDict

from bat_jax import parallel
from bat_jax.data import Dataset
from bat_jax.ensemble.members import Ensemble
from bat_jax.errors import UserError
from bat_jax.memorization.estimates import Estimates
from bat_jax.memorization.store import Scores, joined
from bat_jax.runtime import backend
from bat_jax.runtime.distributed import PeerError
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment
from bat_jax.training.loop import NonFiniteError


class _Task(NamedTuple):
    """The setup of a worker, sent before its members.

    Attributes:
      config: the experiment's config.
      dataset: the experiment's data set, after `data.tested` took its test images.
      estimates: the experiment's memorization estimates, if any, without influences.
      train_ids: the ids of its training images.
      members: how many members the worker trains.
      workers: how many workers share the machine.
      cores: the cores that the worker runs on.
      options: JAX's options, as in the main process except for its devices.
    """

    config: ConfigDict
    dataset: Dataset
    estimates: Estimates | None
    train_ids: Int64[np.ndarray, " train"]
    members: int
    workers: int
    cores: Sequence[int]
    options: dict[str, Any]


class Workers:
    """Trains members as `Ensemble` does, in a separate process for each device.

    A context manager: the processes end with the context, or when this process ends. They are
    spawned rather than forked, so the main module must be importable.

    Attributes:
      round_size: how many members train at a time.
    """

    def __init__(self, experiment: Experiment, *, members: int):
        """Starts a process for every device of the experiment.

        Args:
          experiment: as for `Ensemble`; `build` must recreate it from its config and data set.
          members: the total number of members, to balance the rounds.

        Raises:
          UserError: as by `Ensemble`.
          PeerError: a process ended.
        """
        count = min(experiment.mesh.size, members)
        cores = backend.cores()
        # A default device would belong to this process.
        options = {**jax.config.values, "jax_num_cpu_devices": 1, "jax_default_device": None}
        config = experiment.config.copy_and_resolve_references()
        config.data.tested = 0  # Else the workers would hold out images again.
        estimates = experiment.estimates
        if estimates is not None:
            estimates = dataclasses.replace(estimates, influence=())
        with contextlib.ExitStack() as stack:
            self._workers = [stack.enter_context(_Worker()) for _ in range(count)]
            for index, worker in enumerate(self._workers):
                worker.send(
                    _Task(
                        config,
                        experiment.dataset,
                        estimates,
                        experiment.train.ids,
                        members=math.ceil(members / count),
                        workers=count,
                        cores=cores[index::count] or cores,
                        options=options,
                    )
                )
            # Workers measure free memory at different times: use the smallest size.
            size = min(worker.receive() for worker in self._workers)
            for worker in self._workers:
                worker.send(size)
            self.round_size: int = count * size
            self._stack = stack.pop_all()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def train(
        self,
        members: Int[np.ndarray, " members"],
        progress: Callable[[float], object] = lambda members: None,
    ) -> Scores:
        """Returns the scores of these members: `Ensemble.train`.

        An error ends all processes: pending answers would be mistaken for later ones.

        Raises:
          NonFiniteError: a member's loss is not finite.
          PeerError: a process ended.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._stack.close)
            scores = self._trained(members, progress)
            stack.pop_all()
        return scores

    def _trained(
        self, members: Int[np.ndarray, " members"], progress: Callable[[float], object]
    ) -> Scores:
        parts = np.array_split(members, len(self._workers))
        found: dict[_Worker, Scores | None] = {}
        for worker, part in zip(self._workers, parts, strict=True):
            if len(part):
                worker.send(part)
                found[worker] = None
        while waited := [worker for worker, scores in found.items() if scores is None]:
            ready = multiprocessing.connection.wait([worker.connection for worker in waited])
            for worker in waited:
                if worker.connection in ready:
                    message = worker.receive()
                    if isinstance(message, Scores):
                        found[worker] = message
                    else:
                        progress(message)
        return joined([scores for scores in found.values() if scores is not None])


class _Worker:
    """The parent's handle of a process that trains members.

    Attributes:
      connection: the pipe to the process.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        # Terminal signals are for this process, which ends the worker after a round. A process
        # inherits blocked signals; starting multiprocessing's resource tracker unblocks them, so
        # start it first.
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # With the other end open in the worker only, the pipe closes when the worker ends.
        theirs.close()
        # Runs before multiprocessing sends SIGTERM, which the worker blocks, and joins.
        atexit.register(self._process.kill)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()
        atexit.unregister(self._process.kill)

    def send(self, message: Any) -> None:
        """Sends the task, the round size, or members to train."""
        try:
            self.connection.send(message)
        except OSError:
            self._raise_ended()

    def receive(self) -> Any:
        """Returns the next message, or raises the worker's error."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self._raise_ended()
        if isinstance(message, Exception):
            raise message
        return message

    def _raise_ended(self) -> NoReturn:
        self._process.join()
        code = self._process.exitcode
        assert code is not None  # It has ended.
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        raise PeerError(
            f"a process that trained members {how}; run the same command to resume from the members"
            " that are saved (where memory is short, with JAX_NUM_CPU_DEVICES=1)"
        ) from None


def _work(connection: Connection) -> None:
    """Receives a task, then trains the members received, until the pipe is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The parent process has already logged any warnings.
    logging.getLogger("bat_jax").setLevel(logging.ERROR)
    try:
        task: _Task = connection.recv()
        # Before JAX starts, which creates one thread per available core.
        backend.run_on(task.cores)
        for name, value in task.options.items():
            if jax.config.values[name] != value:
                jax.config.update(name, value)
        mesh = parallel.mesh_of(jax.devices())
        experiment = build(task.config, dataset=task.dataset, estimates=task.estimates, mesh=mesh)
        if not np.array_equal(experiment.train.ids, task.train_ids):
            raise PeerError("a process that trains members selected other training images")
        ensemble = Ensemble(experiment, members=task.members, sharing=task.workers)
        connection.send(ensemble.round_size)
        ensemble.round_size = connection.recv()
        while True:
            connection.send(ensemble.train(connection.recv(), connection.send))
    except (UserError, NonFiniteError, PeerError) as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        pass


def _end_with_parent() -> None:
    """Ends this process as soon as its parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
