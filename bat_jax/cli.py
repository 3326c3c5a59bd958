"""The command `bat-jax`, also available as `python launch.py`.

    bat-jax --config=digits_bat [--workdir=DIR] [--config.train.epochs=3]

Large packages are imported where they are used, so that a mistyped flag fails before JAX starts.
"""

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bat_jax import environment

if TYPE_CHECKING:
    from bat_jax.arguments import Arguments
    from bat_jax.runtime.storage import AnyPath

_STOPPED = 128 + signal.SIGINT
_TOPOLOGY = ("--aot_topology", "-aot_topology")
# Remedies for system errors that a rerun alone does not solve.
_REMEDIES = {
    errno.ENOSPC: "free some space, then run the same command to resume",
    errno.EDQUOT: "free some of your quota, then run the same command to resume",
    errno.EACCES: "expected a writable folder: check its permissions",
    errno.EPERM: "expected a writable folder: check its permissions",
    errno.EROFS: "expected a writable folder: name another with --workdir",
}
# Keep the TPU compiler from searching for a TPU or locking one.
_WITHOUT_TPU = {
    "BAT_JAX_PROGRAMS": "accelerator",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def main(argv: Sequence[str] | None = None, *, program: str = "bat-jax") -> int:
    """Runs the command and returns its exit status.

    If several processes run together, a failing one exits here with that status.

    Args:
      argv: the arguments without the program's name; by default those of this process.
      program: the name that messages begin with.

    Returns:
      0 done, 1 the run failed, 2 a wrong input, 128 + n stopped by signal n.
    """
    try:
        status = _main(sys.argv[1:] if argv is None else argv, program)
        sys.stdout.flush()
        return status
    except ModuleNotFoundError as error:
        return _fail(str(environment.missing(error)), 2, program)
    except BrokenPipeError:
        if not environment.has_lost_reader():
            raise
        return 1
    except KeyboardInterrupt:
        return _fail("stopped before the run began; run the same command", _STOPPED, program)


def _main(argv: Sequence[str], program: str) -> int:
    from bat_jax.arguments import parse
    from bat_jax.errors import UserError

    with contextlib.ExitStack() as stack:
        stack.enter_context(_importing_from_here())
        # Before the page is loaded: it imports JAX, which reads the variables.
        if any(argument.startswith(_TOPOLOGY) for argument in argv):
            stack.enter_context(_compiling_for_tpu())
        try:
            arguments = parse(argv, program=program)
            if isinstance(arguments, str):
                print(arguments)
                return 0
            _check_job(arguments)
        except UserError as error:
            return _fail(str(error), 2, program)
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}; expected a config page that can be read"
            return _fail(reason, 2, program)
        return _run(arguments, program)


@contextlib.contextmanager
def _importing_from_here() -> Iterator[None]:
    """Makes modules of the current folder importable, as `python` does."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # The folder has been removed.
        here = ""
    is_new = here not in sys.path
    if is_new:
        sys.path.append(here)
    try:
        yield
    finally:
        if is_new and here in sys.path:
            sys.path.remove(here)


def _check_job(arguments: "Arguments") -> None:
    from bat_jax.errors import UserError

    job = arguments.config.job
    if arguments.aot_topology and job not in ("train", "memorization"):
        raise UserError(
            f"--aot_topology: config.job is {job!r}; expected train or memorization: name the"
            " config of a single run"
        )


@contextlib.contextmanager
def _compiling_for_tpu() -> Iterator[None]:
    before = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in _WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(arguments: "Arguments", program: str) -> int:
    """Runs the job of a command line; reports errors as one line and an exit status."""
    with _undisturbed():
        import jax

        import bat_jax.jobs  # noqa: F401 (imports Orbax and other large packages)
        from bat_jax.runtime import backend, distributed
        from bat_jax.runtime.interruption import terminating
        from bat_jax.runtime.storage import as_path

    workdir: AnyPath = Path("runs") / arguments.name
    with _logging(), terminating():
        try:
            _prepare(arguments)
            workdir = as_path(arguments.workdir or workdir)
            _join(arguments, workdir)
            backend.devices()
            return _run_job(arguments, workdir)
        # Unknown errors of any class are raised again below.
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, BrokenPipeError) and environment.has_lost_reader():
                return 1
            found = _failure(error, workdir)
            if found is None:
                raise
            message, status = found
            _fail(distributed.prefix() + message, status, program)
            if jax.distributed.is_initialized():
                distributed.leave(status)
            return status


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Defers Ctrl-C until the block ends, because it aborts imports of C++ extensions."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread handles signals.
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if heard:
        raise KeyboardInterrupt


def _prepare(arguments: "Arguments") -> None:
    """Configures JAX before it initialises devices."""
    from bat_jax.runtime import backend

    config = arguments.config
    backend.prepare(
        compilation_cache=arguments.compilation_cache, fuse_products=config.job != "memorization"
    )
    # If the calling program has already initialised JAX, its devices do not change.
    with contextlib.suppress(RuntimeError):
        if config.job == "memorization":
            backend.use_cores_as_devices()
        elif (
            "train" in config
            and arguments.num_processes in (None, 1)
            and config.parallel.devices != 1
        ):
            part = config.train.batch_size // config.train.accumulation
            backend.use_cores_as_devices(sharing=(part, config.evaluation.batch_size))


def _join(arguments: "Arguments", workdir: "AnyPath") -> None:
    """Joins the other processes, if any."""
    from bat_jax.runtime import distributed
    from bat_jax.runtime.storage import is_remote

    is_seen_by_all = arguments.config.job in ("train", "memorization") and not is_remote(workdir)
    distributed.initialize(
        coordinator=arguments.coordinator,
        num_processes=arguments.num_processes,
        process_id=arguments.process_id,
        join_timeout=arguments.join_timeout,
        folder=workdir if is_seen_by_all else None,
    )
    if not distributed.is_main():
        logging.getLogger("bat_jax").setLevel(logging.WARNING)


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Shows this package's log records, and other packages' warnings, above any progress bar."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from bat_jax.runtime.quiet import quiet

    log, handler = logging.getLogger("bat_jax"), logging.StreamHandler(sys.stderr)
    handler.addFilter(_once())
    level = log.level
    log.setLevel(logging.INFO)
    # First in the list, because tqdm takes its format from the first terminal handler.
    logging.root.handlers.insert(0, handler)
    try:
        with quiet(), logging_redirect_tqdm():
            yield
    finally:
        logging.root.removeHandler(handler)
        log.setLevel(level)


def _once() -> Callable[[logging.LogRecord], bool]:
    """Returns a filter that passes each warning once, because a job's runs repeat them."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno < logging.WARNING or message not in seen:
            seen.add(message)
            return True
        return False

    return is_new


def _run_job(arguments: "Arguments", workdir: "AnyPath") -> int:
    """Runs the job, or prints its predicted cost, and returns the exit status."""
    config = arguments.config
    if arguments.aot_topology:
        from bat_jax.jobs import topology

        is_ensemble = config.job == "memorization"
        describing = topology.describe_ensemble if is_ensemble else topology.describe
        description, fits = describing(config, arguments.aot_topology)
        print(description)
        return 0 if fits else 1
    if arguments.dry_run:
        print(_cost(arguments))
        return 0
    table, workdir = _results(arguments, workdir)
    _show(table, workdir)
    return 0


def _cost(arguments: "Arguments") -> str:
    config = arguments.config
    if config.job == "train":
        from bat_jax.jobs.dry_run import describe

        return describe(config)
    if config.job == "memorization":
        from bat_jax.ensemble.cost import describe_ensemble

        return describe_ensemble(config)
    if config.job == "findings":
        from bat_jax.findings.cost import describe_findings

        return describe_findings(config)
    from bat_jax.runtime.plain import plain

    return json.dumps(plain(config), indent=2)


def _results(arguments: "Arguments", workdir: "AnyPath") -> tuple[str, "AnyPath"]:
    """Runs the job; returns a table of its results and the folder that holds them."""
    from bat_jax.evaluation import records
    from bat_jax.jobs import evaluate_run, evaluate_weights, findings, memorize, train_and_evaluate

    config = arguments.config
    if config.job == "train":
        return records.table(train_and_evaluate(config, workdir)), workdir
    if config.job == "memorization":
        from bat_jax.memorization import aggregates

        return aggregates.table(memorize(config, workdir, workers=True)), workdir
    if config.job == "findings":
        from bat_jax.report.findings import table

        return table(findings(config, workdir, workers=True)), workdir
    evaluation = evaluate_run if config.weights is None else evaluate_weights
    found, workdir = evaluation(config, arguments.workdir)
    return records.table(found), workdir


def _show(table: str, workdir: "AnyPath") -> None:
    """Prints a table of results, and draws the page of a run."""
    import jax

    from bat_jax.runtime import distributed

    if not distributed.is_main():
        return
    print(table)
    print(f"results: {workdir / 'results.json'}")
    # After results.json, because pages are drawn from finished runs, by one process.
    if jax.process_count() == 1:
        if not (workdir / "report.html").exists():
            with _undisturbed():
                from bat_jax.report import report

            report(workdir)
        print(f"report: {workdir / 'report.html'}")


def _failure(error: BaseException, workdir: "AnyPath") -> tuple[str, int] | None:
    """Returns the message and exit status of a known error, or None."""
    from bat_jax.errors import UserError, in_short, is_out_of_memory
    from bat_jax.runtime import distributed
    from bat_jax.runtime.interruption import Interrupted, Terminated
    from bat_jax.training import CheckpointError, NonFiniteError

    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, CheckpointError | NonFiniteError | distributed.PeerError):
        return str(error), 1
    if isinstance(error, Interrupted):
        return str(error), 128 + error.signal
    if isinstance(error, Terminated):
        return "stopped by SIGTERM; run the same command to resume", 128 + signal.SIGTERM
    if isinstance(error, KeyboardInterrupt):
        return "stopped; run the same command to resume", _STOPPED
    if is_out_of_memory(error):
        return (
            f"out of memory ({in_short(error)}); lower config.train.batch_size or"
            " config.evaluation.batch_size, or raise config.train.accumulation",
            1,
        )
    if isinstance(error, OSError):
        remedy = _REMEDIES.get(error.errno or 0, "fix that, then run the same command to resume")
        return f"{error.filename or workdir}: {error.strerror or in_short(error)}; {remedy}", 1
    lost = distributed.peer_lost(error)
    return None if lost is None else (str(lost), 1)


def _fail(message: str, status: int, program: str) -> int:
    print(f"{program}: {message}", file=sys.stderr)
    return status
