"""An ensemble on the cores of one machine, a process each.

For CPU. There XLA shares every operation of a device out over the threads of all devices of its
process, so that members who train on two devices of one process wait for one another. Processes
with cores of their own do not. What a member becomes is the same.
"""

import atexit
import contextlib
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
from jaxtyping import Int
from ml_collections import ConfigDict

from bat_jax import parallel
from bat_jax.data import Dataset
from bat_jax.ensemble.members import Ensemble
from bat_jax.errors import UserError
from bat_jax.memorization.store import Scores
from bat_jax.runtime import backend
from bat_jax.runtime.distributed import PeerError
from bat_jax.training.experiment import Experiment, build
from bat_jax.training.loop import NonFiniteError


class _Task(NamedTuple):
    """What a worker is, all that it is told before its members.

    Attributes:
      config: the experiment's.
      dataset: likewise.
      members: how many are to be its own.
      workers: how many share the machine.
      cores: those it runs on.
      options: JAX's, as the main process has them but for its devices.
    """

    config: ConfigDict
    dataset: Dataset
    members: int
    workers: int
    cores: Sequence[int]
    options: dict[str, Any]


class Workers:
    """Trains members as `Ensemble` does, each device's in a process of its own.

    A context: the processes end with it, and with this process however it ends. They are started
    anew rather than forked, so the main module must be one that can be imported.

    Attributes:
      round_size: how many members are trained at a time.
    """

    def __init__(self, experiment: Experiment, *, members: int):
        """Starts a process for every device of the experiment.

        Args:
          experiment: as for `Ensemble`; `build` makes the same from its config and data set.
          members: how many there are to be, so that rounds come out even.

        Raises:
          UserError: as by `Ensemble`.
          PeerError: a process ended.
        """
        count = min(experiment.mesh.size, members)
        cores = backend.cores()
        # A default device would be one of this process.
        options = {**jax.config.values, "jax_num_cpu_devices": 1, "jax_default_device": None}
        with contextlib.ExitStack() as stack:
            self._workers = [stack.enter_context(_Worker()) for _ in range(count)]
            for index, worker in enumerate(self._workers):
                worker.tell(
                    _Task(
                        experiment.config,
                        experiment.dataset,
                        members=math.ceil(members / count),
                        workers=count,
                        cores=cores[index::count] or cores,
                        options=options,
                    )
                )
            # They look at what memory is free at different moments, and take the least.
            size = min(worker.hear() for worker in self._workers)
            for worker in self._workers:
                worker.tell(size)
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

        An error ends all processes: what the others had to say would be taken for later answers.

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
                worker.tell(part)
                found[worker] = None
        while waited := [worker for worker, scores in found.items() if scores is None]:
            ready = multiprocessing.connection.wait([worker.connection for worker in waited])
            for worker in waited:
                if worker.connection in ready:
                    told = worker.hear()
                    if isinstance(told, Scores):
                        found[worker] = told
                    else:
                        progress(told)
        return Scores(*map(np.concatenate, zip(*filter(None, found.values()), strict=True)))


class _Worker:
    """A process that trains members, from this side.

    Attributes:
      connection: to it.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        # A signal at the terminal is for this process, which ends the other when a round is done.
        # What is blocked when a process starts stays blocked in it; multiprocessing's own helper
        # would unblock it, if it were not there yet.
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # Where only the process itself has the other end, its end is the pipe's.
        theirs.close()
        # Before multiprocessing's own SIGTERM, which is blocked there, and wait for it.
        atexit.register(self._process.kill)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()
        atexit.unregister(self._process.kill)

    def tell(self, what: Any) -> None:
        """Gives it its task, the size of a round, or members to train."""
        try:
            self.connection.send(what)
        except OSError:
            self._tell_of_its_end()

    def hear(self) -> Any:
        """Returns what it says next; an error it met is raised."""
        try:
            told = self.connection.recv()
        except (EOFError, OSError):
            self._tell_of_its_end()
        if isinstance(told, Exception):
            raise told
        return told

    def _tell_of_its_end(self) -> NoReturn:
        self._process.join()
        code = self._process.exitcode
        assert code is not None  # It has ended.
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        raise PeerError(
            f"a process that trained members {how}; run the same command to go on from the members"
            " that are saved (where memory is short, with JAX_NUM_CPU_DEVICES=1)"
        ) from None


def _work(connection: Connection) -> None:
    """Trains the members that come through the pipe, after a task, until it is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What there is to warn of, the process that started this one has said.
    logging.getLogger("bat_jax").setLevel(logging.ERROR)
    try:
        task: _Task = connection.recv()
        # Before JAX starts: it makes as many threads as there are cores to run on.
        backend.run_on(task.cores)
        for name, value in task.options.items():
            if jax.config.values[name] != value:
                jax.config.update(name, value)
        mesh = parallel.mesh_of(jax.devices())
        experiment = build(task.config, dataset=task.dataset, mesh=mesh)
        ensemble = Ensemble(experiment, members=task.members, sharing=task.workers)
        connection.send(ensemble.round_size)
        ensemble.round_size = connection.recv()
        while True:
            connection.send(ensemble.train(connection.recv(), connection.send))
    except (UserError, NonFiniteError) as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        pass


def _end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, whatever it is doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
