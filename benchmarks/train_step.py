"""Compares a PGD training step here and in PyTorch eager: same network, batch and cores.

    python benchmarks/train_step.py --reference=/tmp/reference/bin/python

The reference is any Python that imports torch. Each side is its own process and uses all cores; the
sides take turns, so that a slowdown of the machine affects both. Ours is the trainer's whole step,
with batches, draws, metrics and update; the PyTorch side (train_step_torch.py) is written for this
comparison: channels_last, and in the attack only input gradients and batch norm with running
statistics. The output has medians with the smallest and largest, ratios to the last side, images
per second, compilation time, the memory of the compiled program, the peak memory of the process,
and the step's FLOP/s relative to the machine's float32 matrix-product rate in the same run (FLOPs
of plain convolutions, whichever form computes them).

BAT against PGD-AT: `--objectives=bat,pgd_at` without a reference.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import sides

CASES = {
    "small_cnn": {"model": "small_cnn", "width": 16, "batch": 128, "shape": (28, 28, 1)},
    "preact32": {"model": "preact_resnet18", "width": 32, "batch": 64, "shape": (32, 32, 3)},
    "preact32_128": {"model": "preact_resnet18", "width": 32, "batch": 128, "shape": (32, 32, 3)},
    "preact64": {"model": "preact_resnet18", "width": 64, "batch": 64, "shape": (32, 32, 3)},
    "preact64_128": {"model": "preact_resnet18", "width": 64, "batch": 128, "shape": (32, 32, 3)},
}
Case = dict[str, Any]


def make_experiment(case: Case) -> Any:
    """Returns the experiment of a case, on random images."""
    import numpy as np

    from bat_jax.config import default
    from bat_jax.data import Dataset, Split
    from bat_jax.training.building import build

    config = default()
    config.data.validation = 1
    config.model.name = case["model"]
    config.model.width = case["width"]
    config.model.dtype = case["dtype"]
    config.train.batch_size = case["batch"]
    config.evaluation.batch_size = 512
    config.objective.name = case["objective"]
    config.objective.bat.start_epoch = 0.0
    config.attack.num_steps = case["steps"]
    draws = np.random.default_rng(0)
    examples = 8 * case["batch"] + config.data.validation
    split = Split(
        draws.integers(0, 256, (examples, *case["shape"]), np.uint8),
        draws.integers(0, 10, examples, np.int32),
        np.arange(examples),
    )
    return build(config, dataset=Dataset("random", split, split, tuple("0123456789")))


def serve_jax(case: Case) -> None:
    """Serves steps of the trainer."""
    from bat_jax.runtime import backend

    # As launch.py does.
    backend.prepare(compilation_cache="none")
    backend.use_cores_as_devices(sharing=(case["batch"],))

    import jax

    from bat_jax import parallel
    from bat_jax.data.device import epoch_order
    from bat_jax.runtime.peak import matrix_rate
    from bat_jax.training.flops import lowered_step, step_flops

    experiment = make_experiment(case)
    rate = matrix_rate()
    began = time.perf_counter()
    step = lowered_step(experiment).compile()
    facts: dict[str, float] = {"compile": time.perf_counter() - began}
    memory: Any = step.memory_analysis()
    facts["held"] = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**20
    order = epoch_order(
        0, 0, examples=len(experiment.train), batch_size=experiment.config.train.batch_size
    )
    data, order = experiment.train_data(), parallel.replicate(order, experiment.mesh)
    root = experiment.root()
    carried = [experiment.initial_state()]

    def take() -> None:
        carried[0], metrics = step(carried[0], data, order, root)
        jax.block_until_ready((carried[0], metrics))

    take()
    facts |= {"flops": step_flops(experiment), "rate": max(rate, matrix_rate())}
    sides.serve(facts, lambda steps: timed(take, steps))


def serve_torch(case: Case) -> None:
    """Serves steps of the PyTorch side."""
    from train_step_torch import prepare

    take = prepare(case)
    take()
    sides.serve({}, lambda steps: timed(take, steps))


def timed(take: Any, steps: int) -> dict[str, Any]:
    """Returns the seconds of each step, and the process's peak memory in MiB."""
    import resource

    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        take()
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def command(side: str, case: Case, python: str = sys.executable) -> list[str]:
    """Returns the command that starts a side."""
    return [python, __file__, "--side", side, "--case", json.dumps(case)]


def compare(
    name: str, cases: dict[str, Case], reference: str | None, turns: int, steps: int
) -> Any:
    """Runs the sides of one case in turns and yields their rows of the table."""
    commands = {f"here, {objective}": command("jax", case) for objective, case in cases.items()}
    if reference:
        commands["PyTorch"] = command("torch", next(iter(cases.values())), reference)
    with sides.started(commands) as running:
        known = {side: process.facts for side, process in running.items()}
        answers = sides.alternate(running, steps, turns=turns)
    seconds = {
        side: [second for answer in given for second in answer["seconds"]]
        for side, given in answers.items()
    }
    medians = {side: statistics.median(taken) for side, taken in seconds.items()}
    last = list(medians)[-1]
    case = next(iter(cases.values()))
    for side, taken in seconds.items():
        facts = known[side]
        share = compiled = ""
        if facts:
            reached = facts["flops"] / medians[side]
            share = f"{reached / facts['rate']:.0%} of {facts['rate'] / 1e9:.0f} GFLOP/s"
            compiled = f"{facts['compile']:.0f} s, {facts['held']:,.0f} MiB"
        yield (
            f"{name}, {case['dtype']}",
            side,
            sides.spread(taken),
            "" if side == last else f"**{medians[side] / medians[last]:.3f}**",
            f"{case['batch'] / medians[side]:,.1f}",
            share,
            compiled,
            f"{max(answer['peak'] for answer in answers[side]):,.0f} MiB",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", help="Python of the PyTorch side; by default JAX alone")
    parser.add_argument("--cases", default=",".join(CASES), help="some of " + ", ".join(CASES))
    parser.add_argument("--dtypes", default="float32", help="float32,bfloat16")
    parser.add_argument("--objectives", default="pgd_at", help="of JAX; PyTorch's is pgd_at")
    parser.add_argument("--attack_steps", type=int, default=10)
    parser.add_argument("--batch", type=int, help="the batch size; by default the case's")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="training steps per turn")
    parser.add_argument("--side", choices=["jax", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        {"jax": serve_jax, "torch": serve_torch}[options.side](json.loads(options.case))
        return
    rows = []
    for name in options.cases.split(","):
        for dtype in options.dtypes.split(","):
            shared = {**CASES[name], "dtype": dtype, "steps": options.attack_steps}
            shared["batch"] = options.batch or shared["batch"]
            cases = {
                objective: {**shared, "objective": objective}
                for objective in options.objectives.split(",")
            }
            print(f"{name}, {dtype}", file=sys.stderr)
            rows += compare(name, cases, options.reference, options.turns, options.steps)
    sides.print_table(
        ["case", "side", "step", "ratio", "images/s", "of the product rate", "compiled", "peak"],
        rows,
    )


if __name__ == "__main__":
    # The PyTorch side and the protocol are beside this file.
    sys.path.insert(0, str(Path(__file__).parent))
    main()
