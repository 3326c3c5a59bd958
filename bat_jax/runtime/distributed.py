"""Runs one program in several processes: joining, agreement, sharing and failure.

Every process runs the same code on its own devices. All processes take part in global computations;
the main process alone writes logs and reports, inside `agreed`, so that the others neither run
ahead nor wait for a failed process. With a single process, all of this costs nothing.

JAX's coordination service ends all processes soon after one of them has sent no heartbeat for
`HEARTBEAT_SECONDS`.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, Shaped

from bat_jax.errors import UserError, in_short
from bat_jax.runtime import files

# A process without a heartbeat for this long counts as dead, and the others end.
HEARTBEAT_SECONDS = 30
# How long a finished or failed process waits for the others to end.
SHUTDOWN_SECONDS = 20
_LEAVE_SECONDS = 3
_GRACE_SECONDS = 5

# The message that processes exchange: how the block ended, and the error's text.
_MESSAGE_BYTES = 2048
_WELL, _FAILED, _WRONG_INPUT = range(3)


class PeerError(RuntimeError):
    """Another process failed, and this one cannot continue without it."""


def initialize(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    join_timeout: int = 300,
    folder: Path | None = None,
) -> None:
    """Joins the other processes; call before any computation.

    Without arguments, JAX detects the cluster: TPU pods, Slurm, Open MPI and Kubernetes jobs. Does
    nothing without a cluster, or with `num_processes=1`.

    Args:
      coordinator: `host:port` of process 0, reachable from every host.
      num_processes: the number of processes.
      process_id: the index of this process, from 0.
      join_timeout: seconds to wait for all processes. Then this process exits with status 1, and
        names the missing processes if `num_processes` was given.
      folder: a folder that all processes share, where they detect each other before joining.

    Raises:
      UserError: only some of the arguments are known, or they are inconsistent.
    """
    if num_processes == 1:
        return
    # JAX's handler would replace ours for SIGTERM; ours also agree on the step to stop at.
    jax.config.update("jax_enable_preemption_service", False)
    with contextlib.ExitStack() as stack:
        # JAX aborts without naming the missing processes, so name them before.
        patience = 0
        if folder is not None and num_processes is not None and process_id is not None:
            stack.enter_context(_roll_call(folder, num_processes, process_id, join_timeout))
            patience = SHUTDOWN_SECONDS + _GRACE_SECONDS
        _initialize(coordinator, num_processes, process_id, join_timeout + patience)


def _initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> None:
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, IndexError, RuntimeError) as error:
        # JAX's messages without arguments or a cluster, and after initialisation.
        is_alone = any(
            words in str(error)
            for words in ("coordinator_address should be defined", "called before any JAX calls")
        )
        if is_alone and num_processes is None and process_id is None:
            return
        raise UserError(
            f"--coordinator={coordinator} --num_processes={num_processes}"
            f" --process_id={process_id}: {error}; expected all three, such as"
            " --coordinator=host:1234 --num_processes=4 --process_id=0, or none of them if JAX"
            " recognises the cluster"
        ) from None


@contextlib.contextmanager
def _roll_call(folder: Path, processes: int, index: int, seconds: int) -> Iterator[None]:
    """Exits, naming the missing processes, if the block takes longer than `seconds`.

    A process is present while it holds the lock of its own file; a killed process releases it.
    Without locks, a process is present if its file is newer than the longest waiting time.
    """

    def sign(number: int) -> Path:
        return folder / f".process_{number}.part"

    def is_there(number: int) -> bool:
        try:
            with os.fdopen(files.open_plain(sign(number), os.O_RDONLY)) as file:
                return not files.lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except files.NoLocksError:
            # By the clock of the file system, which all processes share.
            since = sign(index).stat().st_mtime - seconds - _GRACE_SECONDS
            return sign(number).stat().st_mtime >= since
        except (OSError, UserError):
            return False

    def give_up() -> None:
        missing = [str(i) for i in range(processes) if i != index and not is_there(i)]
        who = ", ".join(missing) or "none, but not all reach the coordinator"
        print(
            f"bat_jax: process {index} of {processes}: waited {seconds} s for all to join;"
            f" missing: {who}; start all with the same --coordinator, and a --workdir that they"
            f" share ({folder})",
            file=sys.stderr,
            flush=True,
        )
        # Processes that started a little later must still see this one.
        time.sleep(_GRACE_SECONDS)
        sign(index).unlink(missing_ok=True)
        os._exit(1)

    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(files.open_plain(sign(index), os.O_RDWR | os.O_CREAT), "r+")
        os.utime(file.fileno())
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; expected a writable folder") from None
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    with file:
        try:
            with contextlib.suppress(files.NoLocksError):
                files.lock(file.fileno(), fcntl.LOCK_EX)
            timer.start()
            yield
        finally:
            timer.cancel()
            sign(index).unlink(missing_ok=True)
            # A rejected run leaves no folder, but one that was there before.
            if is_new:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def leave(status: int) -> NoReturn:
    """Ends this process, one of several, after a failure.

    If all processes fail, they end together, each with its own exit status. Otherwise this process
    does not wait for the others, which detect the failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ending = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    ending.start()
    ending.join(_LEAVE_SECONDS)
    # Skips JAX's wait at a regular exit.
    os._exit(status)


def is_main() -> bool:
    """Returns whether this is the process that writes logs, reports and results."""
    # Checked first: process_index() starts the back end, whose options may not be set yet.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def prefix() -> str:
    """Returns the prefix of terminal messages, which identifies one of several processes."""
    if not jax.distributed.is_initialized():
        return ""
    return f"process {jax.process_index()} of {jax.process_count()}: "


def peer_lost(error: BaseException) -> PeerError | None:
    """Converts a runtime error to a PeerError if a lost process may have caused it, else None."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, jax.errors.JaxRuntimeError):
        cause = cause.__cause__ or cause.__context__
    if cause is None or jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(cause):
        return None
    reason = in_short(cause)
    return PeerError(
        f"another process is gone, and this one cannot continue without it ({reason}); run the same"
        " command in all of them to resume"
    )


def share(count: int) -> slice:
    """Returns this process's contiguous, balanced share of `count` items."""
    processes, index = jax.process_count(), jax.process_index()
    return slice(count * index // processes, count * (index + 1) // processes)


def gathered(value: Shaped[np.ndarray, "..."] | np.number) -> Shaped[np.ndarray, "processes ..."]:
    """Gathers one array per process, all of the same shape and type, in process order."""
    return np.asarray(multihost_utils.process_allgather(value))


def concatenated(rows: Shaped[np.ndarray, "rows ..."]) -> Shaped[np.ndarray, "all_rows ..."]:
    """Concatenates the rows of all processes, in process order, on every process.

    Numbers of rows may differ. Recombines work divided by `share`.
    """
    if jax.process_count() == 1:
        return rows
    counts = gathered(np.int32(len(rows)))
    padded = np.zeros((int(counts.max()), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return np.concatenate([part[:n] for part, n in zip(gathered(padded), counts, strict=True)])


def largest(value: int) -> Int32[Array, ""]:
    """Returns the maximum over processes, as an array that may still be computing."""
    devices = jax.devices()
    every, one = _over(tuple(devices))
    values = np.full(len(devices), value, np.int32)
    array = jax.make_array_from_callback(values.shape, every, lambda index: values[index])
    return _largest(array, one)


def anywhere(value: int) -> int:
    """Returns the maximum over processes; for flags, whether any is set."""
    return int(value) if jax.process_count() == 1 else int(largest(value))


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Ends the block in all processes with the most severe outcome among them.

    For work that one process does, or that may fail in a single process. The block must not wait
    for other processes.

    Raises:
      UserError: a process raised one; the others report its index.
      PeerError: another process raised an OSError.
    """
    if jax.process_count() == 1:
        yield
        return
    failure: UserError | OSError | None = None
    try:
        yield
    except (UserError, OSError) as error:
        failure = error
    kind = _WELL if failure is None else _FAILED if isinstance(failure, OSError) else _WRONG_INPUT
    message = bytes([kind]) + str(failure).encode()[: _MESSAGE_BYTES - 1]
    messages = gathered(np.frombuffer(message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8))
    if failure is not None:
        raise failure
    for number, (ending, *words) in enumerate(messages.tolist()):
        if ending != _WELL:
            reason = bytes(words).rstrip(b"\0").decode(errors="replace")
            raise (PeerError if ending == _FAILED else UserError)(f"process {number}: {reason}")


def check_same(what: str, text: str) -> None:
    """Raises a UserError unless the text is the same in every process."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = gathered(digest)
    different = np.flatnonzero((digests != digests[0]).any(axis=1))
    if len(different):
        raise UserError(
            f"{what}: not the same in process {different[0]} as in process 0; expected the same in"
            f" all {jax.process_count()}: start every process with the same command and data"
        )


@functools.cache
def _over(devices: tuple[jax.Device, ...]) -> tuple[NamedSharding, NamedSharding]:
    """Returns the sharding with one value per device, and the replicated sharding."""
    mesh = Mesh(np.asarray(devices), ("devices",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("devices")), NamedSharding(mesh, PartitionSpec())


@functools.partial(jax.jit, static_argnums=1)
def _largest(values: Int32[Array, " devices"], sharding: NamedSharding) -> Int32[Array, ""]:
    return jax.lax.with_sharding_constraint(values.max(), sharding)
