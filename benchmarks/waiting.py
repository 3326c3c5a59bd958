"""Measures what a user waits for besides steps: the start, the rest of an epoch, checkpoints.

    python benchmarks/waiting.py

Prints three tables in about six minutes on two cores:

- the time from the command to the first recorded step, with a cold and a warm compilation cache;
- the time of an epoch of `fit`, with its data, records and progress bar, against the same steps
  alone;
- the time that a checkpoint of PreActResNet-18 blocks training, and the time of steps while it is
  written, against steps without.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sides
import train_step

LAUNCH = Path(__file__).parents[1] / "launch.py"
# Flags after the config; the second start needs Debian's dataset-fashion-mnist.
COMMANDS = {
    "`digits_bat`, small_cnn": ("digits_bat",),
    "`fashion_mnist_bat` with preact_resnet18, width 32": (
        "fashion_mnist_bat",
        "--config.model.name=preact_resnet18",
        "--config.model.width=32",
        "--config.train.batch_size=64",
    ),
}


def seconds_to_first_step(config: str, flags: Sequence[str], cache: Path) -> float:
    """Returns the seconds from starting launch.py to its first record."""
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, str(LAUNCH), f"--config=configs/{config}.py", *flags]
        command += ["--config.train.steps=1", f"--workdir={records.parent}"]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--compilation_cache={cache}"],
            cwd=LAUNCH.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not (records.exists() and records.read_text().endswith("\n")):
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)}: status {process.returncode}")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def print_starts(times: int) -> None:
    """Prints the times of starts with a cold and a warm cache."""
    rows = []
    for name, (config, *flags) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as cache:
            cold = seconds_to_first_step(config, flags, Path(cache))
            warm = [seconds_to_first_step(config, flags, Path(cache)) for _ in range(times)]
        rows.append((name, f"{cold:.1f} s", f"{statistics.median(warm):.1f} s"))
    sides.print_table(["launch to first step", "cold cache", "warm cache"], rows)


class EpochTimes:
    """A log that writes as a run's does, and notes the time of each epoch's last record."""

    def __init__(self, folder: Path):
        from bat_jax.training.metrics import MetricsLog

        self._log = MetricsLog(folder, resumed_step=0)
        self.ends: list[float] = []

    def write(self, step: int, epoch: float, split: str, values: Any) -> None:
        self._log.write(step, epoch, split, values)
        if split == "train" and epoch == round(epoch):
            self.ends.append(time.perf_counter())

    def flush(self) -> None:
        self._log.flush()

    def close(self) -> None:
        self._log.close()


def print_epoch(epochs: int, batches: int) -> None:
    """Prints the time of an epoch of `fit`, and of its steps alone before and after."""
    import dataclasses

    import jax
    import numpy as np

    from bat_jax import parallel
    from bat_jax.data.device import epoch_order
    from bat_jax.runtime.interruption import Interruption
    from bat_jax.training.building import planned
    from bat_jax.training.checkpoints import Checkpoints, Saved
    from bat_jax.training.loop import fit

    case = {**train_step.CASES["small_cnn"], "dtype": "float32", "objective": "pgd_at"}
    experiment = train_step.make_experiment({**case, "steps": 10})
    config = experiment.config.copy_and_resolve_references()
    config.train.epochs = epochs
    config.checkpoint.every_epochs = 10 * epochs  # Excludes validation from the epochs.
    rows = np.arange(batches * case["batch"]) % len(experiment.train)
    experiment = dataclasses.replace(
        experiment,
        config=config,
        train=experiment.train.take(rows),
        validation=experiment.train.take(rows[:256]),
    )
    experiment = planned(experiment, examples=len(rows))

    data, root = experiment.train_data(), experiment.root()
    order = epoch_order(0, 0, examples=len(rows), batch_size=case["batch"])
    order = parallel.replicate(order, experiment.mesh)
    step = experiment.train_step

    def bare() -> list[float]:
        state, seconds = experiment.initial_state(), []
        state, previous = jax.block_until_ready(step(state, data, order, root))
        for _ in range(max(1, epochs // 2)):
            began = time.perf_counter()
            for _ in range(batches):
                state, metrics = step(state, data, order, root)
                # As in `fit`, dispatch only one step ahead: CPU devices that wait for each other
                # in many steps at once run out of threads.
                jax.block_until_ready(previous)
                previous = metrics
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - began)
        return seconds

    before = bare()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(
            Path(folder) / "checkpoints", keep=1, score=experiment.score, mesh=experiment.mesh
        )
        log = EpochTimes(Path(folder))
        with Interruption().listening("the epochs are over") as interruption:
            fit(experiment, checkpoints, log, Saved(experiment.initial_state(), 0.0), interruption)
        checkpoints.close()
        log.close()
    alone = before + bare()
    # The first epoch compiles.
    whole = np.diff(log.ends)
    share = statistics.median(alone) / statistics.median(whole)
    sides.print_table(
        ["epoch", "`fit`", "its steps alone", "share of the steps"],
        [
            (
                f"small_cnn, {batches} steps of {case['batch']}",
                sides.spread(list(whole)),
                sides.spread(alone),
                f"{share:.1%}",
            )
        ],
    )


def print_checkpoint(width: int, times: int) -> None:
    """Prints how long a checkpoint blocks training, and the steps while it is written."""
    import jax

    from bat_jax import parallel
    from bat_jax.data.device import epoch_order
    from bat_jax.training.checkpoints import Checkpoints

    # A short step, so that many run while the checkpoint is written.
    case = {**train_step.CASES["preact32"], "width": width, "batch": 4, "steps": 1}
    experiment = train_step.make_experiment({**case, "dtype": "float32", "objective": "pgd_at"})
    data, root = experiment.train_data(), experiment.root()
    order = epoch_order(0, 0, examples=len(experiment.train), batch_size=case["batch"])
    order = parallel.replicate(order, experiment.mesh)
    step, state = experiment.train_step, experiment.initial_state()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**20

    def take() -> float:
        nonlocal state
        began = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, data, order, root))
        return time.perf_counter() - began

    take()
    plain = [take() for _ in range(20)]
    stood, written, during = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), keep=1, score="clean", mesh=experiment.mesh)
        for _ in range(times):
            began = time.perf_counter()
            checkpoints.save(state, seconds=0.0)
            stood.append(time.perf_counter() - began)
            waiting = threading.Thread(target=checkpoints.wait)
            waiting.start()
            while waiting.is_alive():
                during.append(take())
            written.append(time.perf_counter() - began)
        checkpoints.close()
    sides.print_table(
        ["checkpoint", "blocks training", "written after", "steps meanwhile", "steps otherwise"],
        [
            (
                f"preact_resnet18, width {width}, {size:.0f} MiB",
                sides.spread(stood),
                sides.spread(written),
                f"{len(during) / times:.0f} per checkpoint, {sides.spread(during)}",
                sides.spread(plain),
            )
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="starts,epoch,checkpoint")
    parser.add_argument("--epochs", type=int, default=6, help="of `fit`; the first is not counted")
    parser.add_argument("--batches", type=int, default=60, help="steps per epoch")
    parser.add_argument("--width", type=int, default=64, help="of the checkpointed network")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()

    from absl import logging

    from bat_jax.runtime import backend

    # As in launch.py: Orbax logs every file.
    logging.set_verbosity(logging.FATAL)
    backend.prepare(compilation_cache=None)
    backend.use_cores_as_devices(sharing=(train_step.CASES["small_cnn"]["batch"], 4))
    for part in options.parts.split(","):
        if part == "starts":
            print_starts(options.times)
        elif part == "epoch":
            print_epoch(options.epochs, options.batches)
        elif part == "checkpoint":
            print_checkpoint(options.width, options.times)
        else:
            raise SystemExit(f"--parts: {part!r}; expected some of starts, epoch, checkpoint")
        print()


if __name__ == "__main__":
    main()
