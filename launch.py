"""Runs a config: `python launch.py --config=configs/digits_bat.py [--workdir=DIR]`.

Any field of the config can be set on the command line: `--config.train.epochs=3`. The same command
resumes a run that was interrupted.

On several hosts the same command is started on each (docs/tpu.md): TPU pods, Slurm and Kubernetes
are recognised, elsewhere `--coordinator=host:port --num_processes=N --process_id=i` says who is
who.

Exit status: 0 done, 1 training failed or another process did, 2 a wrong input, 128 + n stopped by
signal n; 134 when JAX's runtime ends the process because another one is gone.
"""

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags
from tqdm.contrib.logging import logging_redirect_tqdm

from bat_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default: runs/<config name>.")
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "A folder that keeps compiled programs, or none; default: one among the user's caches.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the config, parameters, FLOPs and memory of a step; train nothing."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where the cluster is not recognised by itself."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes run together; 1 looks for no others.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this is, from 0.", lower_bound=0
)
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "Seconds that processes wait for one another at the start.", lower_bound=1
)
_AOT_TOPOLOGY = flags.DEFINE_string(
    "aot_topology",
    None,
    "Compile the training step for a TPU slice, as v5e:16x16, print what it costs; train nothing.",
)
_WITHOUT_TPU = {
    "BAT_JAX_PROGRAMS": "accelerator",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def main(arguments: list[str]) -> None:
    """Runs the config's job."""
    del arguments
    config = _CONFIG.value
    if _AOT_TOPOLOGY.value:
        # There is a compiler for TPUs but no TPU: it is not to look for one, nor to hold it.
        os.environ["JAX_PLATFORMS"] = "cpu"
        for name, value in _WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
    # Imported here, so that a mistyped flag is told before JAX has started.
    import jax
    from jax.errors import JaxRuntimeError

    from bat_jax import backend
    from bat_jax.ensemble.cost import describe_ensemble
    from bat_jax.evaluation import results as evaluation_results
    from bat_jax.findings.cost import describe_findings
    from bat_jax.jobs import evaluate_run, findings, memorize, train_and_evaluate
    from bat_jax.jobs.dry_run import describe
    from bat_jax.memorization import aggregates as memorization_aggregates
    from bat_jax.report import report
    from bat_jax.report.findings import table as claims_table
    from bat_jax.runtime import distributed
    from bat_jax.runtime.interruption import Interrupted
    from bat_jax.runtime.plain import plain
    from bat_jax.runtime.storage import AnyPath, as_path, is_remote
    from bat_jax.training import CheckpointError, NonFiniteError

    backend.prepare(
        compilation_cache=_COMPILATION_CACHE.value, fuse_products=config.job != "memorization"
    )
    if config.job == "memorization":
        backend.use_cores_as_devices()
    elif "train" in config and _NUM_PROCESSES.value in (None, 1) and config.parallel.devices != 1:
        part = config.train.batch_size // config.train.accumulation
        backend.use_cores_as_devices(sharing=(part, config.evaluation.batch_size))

    def fail(message: str, *, status: int) -> NoReturn:
        print(f"launch.py: {distributed.prefix()}{message}", file=sys.stderr)
        distributed.leave(status)

    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir: AnyPath = Path(f"runs/{name}")
    # Orbax tells of every file. What goes wrong in its threads, and in TensorStore's callbacks,
    # which can raise nowhere, it raises again in this one.
    absl_logging.set_verbosity(absl_logging.FATAL)
    threading.excepthook = sys.unraisablehook = lambda _: None
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("bat_jax").setLevel(logging.INFO)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    try:
        workdir = as_path(_WORKDIR.value or workdir)
        is_seen_by_all = config.job in ("train", "memorization") and not is_remote(workdir)
        distributed.initialize(
            coordinator=_COORDINATOR.value,
            num_processes=_NUM_PROCESSES.value,
            process_id=_PROCESS_ID.value,
            join_timeout=_JOIN_TIMEOUT.value,
            folder=workdir if is_seen_by_all else None,
        )
        if jax.distributed.is_initialized():
            # JAX aborts a process whose peers are gone, and says so. What absl has Python add to
            # an abort, every thread's stack and every module, would bury it.
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
        if not distributed.is_main():
            logging.getLogger("bat_jax").setLevel(logging.WARNING)
        with logging_redirect_tqdm():
            if _AOT_TOPOLOGY.value and config.job not in ("train", "memorization"):
                raise UserError(
                    f"--aot_topology: config.job is {config.job!r}; expected train or memorization:"
                    " name the config of one of its runs"
                )
            if _AOT_TOPOLOGY.value:
                from bat_jax.jobs import topology

                is_ensemble = config.job == "memorization"
                describing = topology.describe_ensemble if is_ensemble else topology.describe
                description, fits = describing(config, _AOT_TOPOLOGY.value)
                print(description)
                sys.exit(0 if fits else 1)
            if config.job == "train":
                if _DRY_RUN.value:
                    print(describe(config))
                    return
                text = evaluation_results.table(train_and_evaluate(config, workdir))
            elif config.job == "memorization":
                if _DRY_RUN.value:
                    print(describe_ensemble(config))
                    return
                text = memorization_aggregates.table(memorize(config, workdir, workers=True))
            elif config.job == "evaluation" and "run" in config:
                if _DRY_RUN.value:
                    print(json.dumps(plain(config), indent=2))
                    return
                results, workdir = evaluate_run(config, _WORKDIR.value)
                text = evaluation_results.table(results)
            elif config.job == "findings" and "findings" in config:
                if _DRY_RUN.value:
                    print(describe_findings(config))
                    return
                text = claims_table(findings(config, workdir, workers=True))
            else:
                raise UserError(
                    f"config.job is {config.job!r}; expected train, memorization, evaluation with"
                    " --config=configs/evaluation.py, or findings with a config made for them"
                )
        if distributed.is_main():
            print(text)
            print(f"results: {workdir / 'results.json'}")
            # After results.json, which ends a run: a page is drawn from a finished one, and its
            # pictures are one process's work.
            if jax.process_count() == 1:
                if not (workdir / "report.html").exists():
                    report(workdir)
                print(f"report: {workdir / 'report.html'}")
    except UserError as error:
        fail(str(error), status=2)
    except OSError as error:
        fail(f"{error.filename or workdir}: {error.strerror or error}", status=1)
    except (CheckpointError, NonFiniteError, distributed.PeerError) as error:
        fail(str(error), status=1)
    except JaxRuntimeError as error:
        lost = distributed.peer_lost(error)
        if lost is None:
            raise
        fail(str(lost), status=1)
    except Interrupted as error:
        fail(str(error), status=128 + error.signal)
    except KeyboardInterrupt:
        fail("stopped; run the same command to go on", status=128 + signal.SIGINT)


def _parse(arguments: list[str]) -> list[str]:
    """Reads the flags; a wrong one is an input error of one line."""
    try:
        rest = flags.FLAGS(arguments)
        if len(rest) > 1:
            _refuse(f"unknown argument {rest[1]!r}; expected flags, as --config=configs/<name>.py")
        if not flags.FLAGS["config"].present:
            _refuse("--config is not set; expected a file, as --config=configs/digits_bat.py")
        path = Path(config_flags.get_config_filename(flags.FLAGS["config"]))
        if not path.is_file():
            _refuse(f"--config: no file {path}; expected one of configs/")
        # Reading the config is what finds its errors.
        flags.FLAGS["config"].value  # noqa: B018
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # str() of a KeyError is the repr of its message.
        is_key = isinstance(error, KeyError) and error.args
        message = f"no field {error.args[0]}" if is_key else error
        _refuse("wrong config or flag: " + " ".join(str(message).split()))


def _refuse(message: str) -> NoReturn:
    print(f"launch.py: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        print("launch.py: stopped before it began; run the same command", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
