"""One run in several processes on this machine, each with its own CPU devices."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[2]
# A run of a few seconds on real digits, on all devices.
TINY = (
    "--config.data.validation=32",
    "--config.data.subset=256",
    "--config.model.name=tests.networks:create",
    "--config.objective.bat.start_epoch=1.0",
    "--config.attack.num_steps=2",
    "--config.programs.unroll=False",
    "--config.train.epochs=3",
    "--config.train.log_every=2",
    "--config.evaluation.num_steps=2",
    "--config.evaluation.batch_size=64",
    "--config.evaluation.losses=('cross_entropy',)",
    "--config.checkpoint.every_epochs=1",
)


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


def start(workdir, count, *flags, config="digits_bat", devices=2, missing=(), port=None):
    """Starts all of `count` processes except the missing ones."""
    port = port or free_port()
    started = []
    for index in range(count):
        if index in missing:
            continue
        command = [sys.executable, str(ROOT / "launch.py")]
        command += [f"--config={ROOT}/configs/{config}.py", f"--workdir={workdir}", *TINY, *flags]
        if count > 1:
            command += [f"--coordinator=localhost:{port}"]
            command += [f"--num_processes={count}", f"--process_id={index}"]
        started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
            )
        )
    return started


def finish(processes, timeout=300):
    """Returns the ended processes; kills and reaps those that do not end."""
    try:
        # Their pipes are read one after another; none of them writes enough to fill one.
        outputs = [process.communicate(timeout=timeout) for process in processes]
        return [Ended(p.returncode, *o) for p, o in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


def run(workdir, count, *flags, config="digits_bat", devices=2):
    ended = finish(start(workdir, count, *flags, config=config, devices=devices))
    for process in ended:
        assert process.status == 0, process.stderr
    return ended


def wait_for(found, processes, timeout=300):
    """Waits until `found()` is true, while all processes run."""
    deadline = time.monotonic() + timeout
    while not found():
        assert time.monotonic() < deadline
        assert all(p.poll() is None for p in processes), finish(processes)
        time.sleep(0.01)


def has_validated(workdir):
    metrics = workdir / "metrics.jsonl"
    return lambda: metrics.exists() and '"validation"' in metrics.read_text()


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def final_state(workdir):
    """Returns the leaves of the newest checkpoint, written by any devices."""
    folder = workdir / "checkpoints"
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    checkpointer = ocp.PyTreeCheckpointer()
    path = (folder / str(step) / "state").absolute()
    shapes = checkpointer.metadata(path).item_metadata.tree
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    return jax.tree.leaves(checkpointer.restore(path, restore_args=kinds))


def leftovers(workdir):
    """Returns the files that a run should not leave behind."""
    return [
        path
        for path in workdir.rglob("*")
        if path.name.endswith(".part") or "orbax-checkpoint-tmp" in path.name
    ]
