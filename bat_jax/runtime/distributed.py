"""Several processes that run one program, on many hosts: how they join, agree, share and end.

Every process runs the same code on its own devices. What is computed together is computed by all;
what must be done once (a log, a report) is done by the main process inside `agreed`, so that the
others neither run ahead nor wait for one that has failed. With one process all of this is free.

Nobody waits for ever for a process that is gone: JAX's coordination service ends all of them soon
after one gave no sign of life for `HEARTBEAT_SECONDS`.
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

from bat_jax.errors import UserError
from bat_jax.runtime import files

# After so long without a sign of life a process is taken for dead, and the others end.
HEARTBEAT_SECONDS = 30
# How long one that is done, or has failed, waits for the others to be so too.
SHUTDOWN_SECONDS = 20
_LEAVE_SECONDS = 3
_GRACE_SECONDS = 5

# A message that is passed on: how the block ended, and in which words.
_MESSAGE_BYTES = 2048
_WELL, _FAILED, _WRONG_INPUT = range(3)


class PeerError(RuntimeError):
    """Another process failed, and this one cannot go on without it."""


def initialize(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    join_timeout: int = 300,
    folder: Path | None = None,
) -> None:
    """Joins the other processes; to be called before anything is computed.

    Without arguments they are found as JAX finds them: on TPU pods, under Slurm, Open MPI and in
    Kubernetes jobs. Where there are none, and with `num_processes=1`, nothing is done.

    Args:
      coordinator: `host:port` of process 0, reachable from every host.
      num_processes: how many there are.
      process_id: which of them this is, from 0.
      join_timeout: seconds to wait for all of them. Then this one ends with status 1; if
        `num_processes` was given it says which were missed.
      folder: one that all processes share, where they see one another before they have joined.

    Raises:
      UserError: only some of the arguments are known, or they do not fit together.
    """
    if num_processes == 1:
        return
    # Its handler would take SIGTERM from ours, which also agree on the step to stop at.
    jax.config.update("jax_enable_preemption_service", False)
    with contextlib.ExitStack() as stack:
        # JAX ends the process without saying who is missing: what is known is said before.
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
        # What JAX says where it finds neither arguments nor a cluster, and where it has begun.
        is_alone = any(
            words in str(error)
            for words in ("coordinator_address should be defined", "called before any JAX calls")
        )
        if is_alone and num_processes is None and process_id is None:
            return
        raise UserError(
            f"--coordinator={coordinator} --num_processes={num_processes}"
            f" --process_id={process_id}: {error}; expected all three, as"
            " --coordinator=host:1234 --num_processes=4 --process_id=0, or none of them where JAX"
            " knows the cluster"
        ) from None


@contextlib.contextmanager
def _roll_call(folder: Path, processes: int, index: int, seconds: int) -> Iterator[None]:
    """Ends the process, naming the missing ones, when the block takes longer than so many seconds.

    A process is there as long as it holds the lock of a file of its own; a killed one holds none.
    Without locks it is there if its file is not older than the longest time that one waits.
    """

    def sign(number: int) -> Path:
        return folder / f".process_{number}.part"

    def is_there(number: int) -> bool:
        try:
            with os.fdopen(files.open_plain(sign(number), os.O_RDONLY)) as file:
                return not files.lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except files.NoLocksError:
            # By the clock of the file system, which all share.
            since = sign(index).stat().st_mtime - seconds - _GRACE_SECONDS
            return sign(number).stat().st_mtime >= since
        except (OSError, UserError):
            return False

    def give_up() -> None:
        missing = [str(i) for i in range(processes) if i != index and not is_there(i)]
        who = ", ".join(missing) or "none, but not all reach the coordinator"
        print(
            f"launch.py: process {index} of {processes}: waited {seconds} s for all to join;"
            f" missing: {who}; start all with the same --coordinator, and a --workdir that they"
            f" share ({folder})",
            file=sys.stderr,
            flush=True,
        )
        # Those that began a little later are to find this one in its place.
        time.sleep(_GRACE_SECONDS)
        sign(index).unlink(missing_ok=True)
        os._exit(1)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(files.open_plain(sign(index), os.O_RDWR | os.O_CREAT), "r+")
        os.utime(file.fileno())
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}; expected a folder that can be written to"
        ) from None
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
            # A run that is refused leaves no folder.
            with contextlib.suppress(OSError):
                folder.rmdir()


def leave(status: int) -> NoReturn:
    """Ends this process after a failure.

    Where all fail alike they end together, each with its own exit status. Where the others know
    nothing they are not waited for: they notice.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        ending = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        ending.start()
        ending.join(_LEAVE_SECONDS)
        # Without the waiting that JAX does at a regular end.
        os._exit(status)
    sys.exit(status)


def is_main() -> bool:
    """Returns whether this is the process that writes logs, reports and results."""
    # Asked first: process_index() starts the back end, whose options may not be set yet.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def prefix() -> str:
    """Returns what a line on the terminal begins with, where several processes may write one."""
    if not jax.distributed.is_initialized():
        return ""
    return f"process {jax.process_index()} of {jax.process_count()}: "


def peer_lost(error: BaseException) -> PeerError | None:
    """Returns what the runtime raised as the loss of another process, where it can be that."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, jax.errors.JaxRuntimeError):
        cause = cause.__cause__ or cause.__context__
    if cause is None or jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(cause):
        return None
    reason = " ".join(str(cause).split())[:200]
    return PeerError(
        f"another process is gone, and this one cannot go on without it ({reason}); run the same"
        " command in all of them to go on"
    )


def share(count: int) -> slice:
    """Returns which of `count` things are this process's, in order and as evenly as can be."""
    processes, index = jax.process_count(), jax.process_index()
    return slice(count * index // processes, count * (index + 1) // processes)


def gathered(value: Shaped[np.ndarray, "..."] | np.number) -> Shaped[np.ndarray, "processes ..."]:
    """Returns every process's array, all of one shape and type, in the order of the processes."""
    return np.asarray(multihost_utils.process_allgather(value))


def concatenated(rows: Shaped[np.ndarray, "rows ..."]) -> Shaped[np.ndarray, "all_rows ..."]:
    """Returns the rows of all processes, one process after another, in every process.

    They may have different numbers of rows; together with `share`, work that was divided comes
    together again.
    """
    if jax.process_count() == 1:
        return rows
    counts = gathered(np.int32(len(rows)))
    padded = np.zeros((int(counts.max()), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return np.concatenate([part[:n] for part, n in zip(gathered(padded), counts, strict=True)])


def largest(value: int) -> Int32[Array, ""]:
    """Returns the largest of the processes' values, as an array that need not be there yet."""
    devices = jax.devices()
    every, one = _over(tuple(devices))
    values = np.full(len(devices), value, np.int32)
    array = jax.make_array_from_callback(values.shape, every, lambda index: values[index])
    return _largest(array, one)


def anywhere(value: int) -> int:
    """Returns the largest of the processes' values: of flags, whether any of them is set."""
    return int(value) if jax.process_count() == 1 else int(largest(value))


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Ends the block in every process as it ends in the worst off.

    For what one process does, or what may go wrong in one of them. The block must contain nothing
    that waits for the others.

    Raises:
      UserError: a process met one; the others tell its number.
      PeerError: a process met an error of its files, which it raises itself.
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
    told = gathered(np.frombuffer(message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8))
    if failure is not None:
        raise failure
    for number, (ending, *words) in enumerate(told.tolist()):
        if ending != _WELL:
            reason = bytes(words).rstrip(b"\0").decode(errors="replace")
            raise (PeerError if ending == _FAILED else UserError)(f"process {number}: {reason}")


def check_same(what: str, text: str) -> None:
    """Raises a UserError unless the text, whatever it describes, is the same in every process."""
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
    """Returns how an array with a value a device lies, and one that all devices hold."""
    mesh = Mesh(np.asarray(devices), ("devices",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("devices")), NamedSharding(mesh, PartitionSpec())


@functools.partial(jax.jit, static_argnums=1)
def _largest(values: Int32[Array, " devices"], sharding: NamedSharding) -> Int32[Array, ""]:
    return jax.lax.with_sharding_constraint(values.max(), sharding)
