"""The PGD-10 adversarial training step, here and in PyTorch eager: same network, batch and cores.

    python benchmarks/train_step.py --reference=/tmp/reference/bin/python

The reference is any Python that imports torch. Each side is a process of its own that uses all
cores; they take turns, so that a machine that slows down slows both. Ours is the whole step of the
trainer, with batches, draws, metrics and update; the PyTorch side (train_step_torch.py) is written
for this comparison: channels_last, gradients of the input alone in the attack, batch norm with
running statistics there. Printed are medians with the smallest and largest, the ratio, images a
second, seconds to compile, peak memory of the process, and how much of the machine's own float32
matrix-product rate, measured in the same run, the step's 2K + 3 forward passes come to.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CASES = {
    "small_cnn": {"model": "small_cnn", "width": 16, "batch": 128, "shape": (28, 28, 1)},
    "preact32": {"model": "preact_resnet18", "width": 32, "batch": 64, "shape": (32, 32, 3)},
    "preact32_128": {"model": "preact_resnet18", "width": 32, "batch": 128, "shape": (32, 32, 3)},
    "preact64": {"model": "preact_resnet18", "width": 64, "batch": 64, "shape": (32, 32, 3)},
    "preact64_128": {"model": "preact_resnet18", "width": 64, "batch": 128, "shape": (32, 32, 3)},
}
SIDES = ("jax", "torch")


def prepare_jax(case: dict[str, Any]) -> tuple[Any, float]:
    """Returns a function that takes one step and waits for it, and the FLOPs of a step."""
    from bat_jax import backend

    backend.prepare(compilation_cache="none")

    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from bat_jax import models, parallel
    from bat_jax.config import default
    from bat_jax.data import Dataset, Split
    from bat_jax.data.device import epoch_order
    from bat_jax.training.experiment import build

    config = default()
    config.data.name = "digits"
    config.model.name = "small_cnn"
    config.train.batch_size = case["batch"]
    config.evaluation.batch_size = 512
    config.objective.name = case["objective"]
    config.objective.bat.start_epoch = 0.0
    config.attack.num_steps = case["steps"]
    draws = np.random.default_rng(0)
    examples = 8 * case["batch"]
    split = Split(
        draws.integers(0, 256, (examples, *case["shape"]), np.uint8),
        draws.integers(0, 10, examples, np.int32),
        np.arange(examples),
    )
    experiment = dataclasses.replace(
        build(config),
        dataset=Dataset("random", split, split, tuple("0123456789")),
        train=split,
        model=models.create(
            case["model"],
            10,
            width=case["width"],
            dtype=jnp.dtype(case["dtype"]),
            axis_name=parallel.AXIS if config.model.sync_batch_norm else None,
        ),
    )
    forward = jax.jit(experiment.model.apply).lower(
        jax.eval_shape(experiment.initial_state).variables,
        jax.ShapeDtypeStruct((case["batch"], *case["shape"]), jnp.float32),
    )
    passes = experiment.objective.forward_passes(case["steps"])
    order = epoch_order(0, 0, examples=examples, batch_size=case["batch"])
    order = parallel.replicate(order, experiment.mesh)
    carried = [experiment.initial_state()]
    data, root = experiment.train_data(), experiment.root()
    step = experiment.train_step()

    def take() -> None:
        state, metrics = step(carried[0], data, order, root)
        carried[0] = jax.block_until_ready(state)
        jax.block_until_ready(metrics)

    return take, passes * forward.cost_analysis()["flops"]


def matrix_rate() -> float:
    """Returns the FLOPs a second of this machine's float32 matrix product, at its best."""
    import jax
    import jax.numpy as jnp

    side = 2048
    one = jnp.ones((side, side))
    product = jax.jit(lambda a: a @ a)
    product(one).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(one).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def serve(side: str, case: dict[str, Any]) -> None:
    """Takes as many steps as each line of the input says, and prints what they took."""
    import resource

    if side == "jax":
        take, flops = prepare_jax(case)
    else:
        from train_step_torch import prepare

        take, flops = prepare(case), 0.0
    start = time.perf_counter()
    take()
    first = time.perf_counter() - start
    rate = matrix_rate() if side == "jax" else 0.0
    print(json.dumps({"first": first, "flops": flops, "rate": rate}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            take()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


def compare(case: dict[str, Any], reference: str | None, turns: int, steps: int) -> None:
    """Runs both sides in turns and prints their lines of the table."""
    pythons = {"jax": sys.executable, "torch": reference}
    servers = {
        side: subprocess.Popen(
            [str(python), __file__, "--side", side, "--case", json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
            text=True,
        )
        for side, python in pythons.items()
        if python
    }
    try:
        # One after another: the first step compiles.
        told = {side: json.loads(_line(server)) for side, server in servers.items()}
        found: dict[str, list[float]] = {side: [] for side in servers}
        peaks: dict[str, float] = {}
        for _ in range(turns):
            for side, server in servers.items():
                assert server.stdin is not None
                server.stdin.write(f"{steps}\n")
                server.stdin.flush()
                answer = json.loads(_line(server))
                found[side] += answer["seconds"]
                peaks[side] = answer["peak"]
    finally:
        for server in servers.values():
            server.kill()
            server.wait()
    medians = {side: statistics.median(seconds) for side, seconds in found.items()}
    for side, seconds in found.items():
        text = (
            f"{side:5} {1e3 * medians[side]:8.0f} ms ({1e3 * min(seconds):.0f} to"
            f" {1e3 * max(seconds):.0f}, n = {len(seconds)})"
            f"  {case['batch'] / medians[side]:7.1f} images/s"
            f"  first step {told[side]['first']:5.1f} s  peak {peaks[side]:6.0f} MiB"
        )
        if side == "jax":
            share = told[side]["flops"] / medians[side] / told[side]["rate"]
            text += f"  {share:.0%} of {told[side]['rate'] / 1e9:.0f} GFLOP/s"
        print(text, flush=True)
    if len(medians) == 2:
        print(f"jax / torch: {medians['jax'] / medians['torch']:.3f}", flush=True)


def _line(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise SystemExit(f"a side ended with status {server.wait()}")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", help="Python of the PyTorch side; without it ours alone")
    parser.add_argument("--cases", default=",".join(CASES), help="some of " + ", ".join(CASES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--objective", default="pgd_at", help="of ours; PyTorch's is pgd_at")
    parser.add_argument("--attack_steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="training steps a turn")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options.side, json.loads(options.case))
        return
    for name in options.cases.split(","):
        case = {
            **CASES[name],
            "dtype": options.dtype,
            "objective": options.objective,
            "steps": options.attack_steps,
        }
        print(f"{name}: {case}", flush=True)
        compare(case, options.reference, options.turns, options.steps)


if __name__ == "__main__":
    # Beside this file lies the PyTorch side.
    sys.path.insert(0, str(Path(__file__).parent))
    main()
