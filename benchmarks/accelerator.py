"""What an accelerator makes of this project: correctness, speed, CIFAR-100, memorization.

    python benchmarks/accelerator.py --budget=800 --data=FOLDER --out=FOLDER
    python benchmarks/accelerator.py --smoke                              # a trial on CPU

Stages, in this order: sanity, step, feeding, autoattack, ensemble, cifar100, memorization. Every
figure is appended to OUT/records.jsonl the moment it is known; what the file has is not measured
again, so that the same command goes on where time ended. benchmarks/accelerator.md says how to
bring it to a machine without a network.
"""

import argparse
import importlib
import os
import sys
import tempfile
import traceback
from pathlib import Path

# The seconds of each stage; None is the rest.
BOXES = {
    "sanity": 150.0,
    "step": 120.0,
    "feeding": 60.0,
    "autoattack": 200.0,
    "ensemble": 90.0,
    "cifar100": None,
    "memorization": None,
}
# Trained on CIFAR-100, in this order.
METHODS = ("pgd_at", "bat", "trades", "standard", "pgd_at_awp", "bat_awp", "trades_awp")
SMOKE_SECONDS = 3600.0


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the checked arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, help="seconds for everything; needed but in trials")
    parser.add_argument("--stages", default=",".join(BOXES), help=f"some of {', '.join(BOXES)}")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of the parts of benchmarks/parts.py, of cifar-100-binary or of its archive;"
        " released C-scores and pairs are found there too",
    )
    parser.add_argument("--out", type=Path, default=Path("accelerator"), help="of records.jsonl")
    parser.add_argument("--work", type=Path, help="of runs and weights; by default OUT/work")
    parser.add_argument(
        "--seeds", default="0", help="the seeds of the training runs, such as 0,1,2"
    )
    parser.add_argument(
        "--methods", default=",".join(METHODS), help=f"of the training runs: {', '.join(METHODS)}"
    )
    parser.add_argument("--smoke", action="store_true", help="every stage on CPU, at toy size")
    options = parser.parse_args(argv)
    if options.budget is None and options.smoke:
        options.budget = SMOKE_SECONDS
    if options.budget is None or not options.budget > 0:
        parser.error(f"--budget is {options.budget}; expected seconds, as --budget=800")
    options.stages = options.stages.split(",")
    options.methods = tuple(options.methods.split(","))
    for flag, names, known in (
        ("--stages", options.stages, tuple(BOXES)),
        ("--methods", options.methods, METHODS),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            parser.error(f"{flag} has {unknown[0]!r}; expected some of {', '.join(known)}")
    try:
        options.seeds = tuple(int(seed) for seed in options.seeds.split(","))
    except ValueError:
        parser.error(f"--seeds is {options.seeds!r}; expected whole numbers, as 0,1,2")
    options.work = options.work or options.out / "work"
    if options.smoke:
        options.work /= "trial"
    return options


def prepare(options: argparse.Namespace) -> None:
    """Sets what JAX reads when it is imported."""
    if options.smoke:
        os.environ["JAX_PLATFORMS"] = "cpu"
        # The programs that an accelerator would get.
        os.environ["BAT_JAX_PROGRAMS"] = "accelerator"
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    elif "cpu" not in (os.environ.get("JAX_PLATFORMS") or "cpu"):
        # Sanity compares with CPU, and its back end counts FLOPs.
        os.environ["JAX_PLATFORMS"] += ",cpu"
    # PyTorch takes turns on the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def ready_data(options: argparse.Namespace) -> Path | None:
    """Returns the folder to read CIFAR-100 from, unpacked if it came in parts.

    Raises:
      UserError: it is missing or damaged.
    """
    import parts
    from stages import sets

    from bat_jax import data
    from bat_jax.errors import UserError

    source = options.data
    if source is None:
        if not options.smoke:
            return None
        source = options.work / "toy"
        if not source.exists():
            options.work.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=options.work) as folder:
                archive, packed = Path(folder) / "cifar-100-binary.tar.gz", Path(folder) / "toy"
                sets.toy_archive(archive)
                parts.pack(archive, packed)
                packed.rename(source)
    if not source.is_dir():
        raise UserError(f"--data={source}: no such folder; expected the parts of CIFAR-100")
    if parts.present(source):
        unpacked = options.work / ("data" if options.data else "toy-data")
        unpacked.mkdir(parents=True, exist_ok=True)
        parts.unpack(source, unpacked)
        source = unpacked
    data.load("cifar100", path=str(source))  # A damaged file ends here.
    return source


def main(argv: list[str]) -> int:
    """Runs the stages; returns 0, 1 if one failed, 2 for a wrong input, 128 + n after a signal."""
    options = parse(argv)
    prepare(options)

    from stages.clock import Clock

    clock = Clock(options.budget)  # The imports count.

    from stages import machine
    from stages.records import FAILED, Records
    from stages.stage import Run, Stage

    from bat_jax.errors import UserError
    from bat_jax.runtime import backend
    from bat_jax.runtime.interruption import Interrupted

    try:
        backend.prepare(compilation_cache=str(options.work / "programs"))
        if not options.smoke:
            machine.check_accelerator()
        records = Records(
            options.out / "records.jsonl",
            card=machine.card(),
            versions=machine.versions(),
            smoke=options.smoke,
        )
        options.work.mkdir(parents=True, exist_ok=True)
        run = Run(
            records=records,
            clock=clock,
            smoke=options.smoke,
            data=ready_data(options),
            released=options.data,
            work=options.work,
            seeds=options.seeds,
            methods=options.methods,
        )
        for name in BOXES:
            if name in options.stages:
                box = BOXES[name]
                stage = Stage(name, run, box=clock.left if box is None or options.smoke else box)
                try:
                    importlib.import_module(f"stages.{name}").run(stage)
                except Interrupted:
                    raise
                except Exception as error:  # The other stages go on.
                    traceback.print_exc()
                    why = f"{type(error).__name__}: {error}"
                    records.missing(name, FAILED, why, precision="", seeds=())
    except UserError as error:
        print(f"accelerator.py: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"accelerator.py: {error}", file=sys.stderr)
        return 128 + error.signal
    except KeyboardInterrupt:
        print("accelerator.py: stopped; run the same command to go on", file=sys.stderr)
        return 130
    return 1 if records.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
