"""Compares AutoAttack in JAX and in PyTorch: same network, same images, same cores, one run.

    python benchmarks/autoattack.py --reference=/tmp/reference/bin/python --tolerance=0.003

The network and the PyTorch side are those of tests/golden/make_autoattack.py, whose docstring
explains how to make the reference's environment; any Python that imports torch and pyautoattack
will do. With a tolerance, a third row has the standard set up to that tolerance. Each row is a
process of its own and uses all available cores: PyTorch with one thread per core, JAX with one CPU
device per core and the convolutions of evaluation jobs. Times are of the whole call, including
compilation but not imports. On a busy machine PyTorch's threads wait for one another: prefix the
command with `taskset -c 0` to give all sides one core, and compare CPU seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"


def run_jax(options: argparse.Namespace, attacks: list[str]) -> dict[str, Any]:
    import jax
    import numpy as np
    from flax.traverse_util import unflatten_dict

    from bat_jax import models
    from bat_jax.attacks import autoattack
    from bat_jax.kernels import convolution, programs

    with np.load(GOLDEN / f"small_cnn_{options.network}.npz", allow_pickle=False) as archive:
        parameters = unflatten_dict({tuple(name.split("/")): archive[name] for name in archive})
    conv = convolution.cpu if programs.is_cpu_style() else convolution.xla
    model = models.create("small_cnn", 10, width=8, conv=conv)
    with np.load(options.problem, allow_pickle=False) as problem:
        images, labels = problem["images"], problem["labels"]
    key = jax.random.key(0)
    start, used = time.perf_counter(), time.process_time()
    result = autoattack(
        lambda x: model.apply({"params": parameters}, x),
        images,
        labels,
        key,
        epsilon=0.1,
        attacks=tuple(attacks),
        tolerance=options.tolerance,
        keep_adversarial=False,
    )
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - used,
        "interval": result.interval,
        "by_attack": {name: round(seconds, 1) for name, seconds in result.seconds.items()},
        "standing": np.packbits(result.robust).tobytes().hex(),
    }


def run_torch(options: argparse.Namespace, attacks: list[str]) -> dict[str, Any]:
    sys.path.insert(0, str(GOLDEN))
    import make_autoattack as golden
    import numpy as np
    import torch

    model = golden.SmallCNN(GOLDEN / f"small_cnn_{options.network}.npz").eval()
    with np.load(options.problem, allow_pickle=False) as problem:
        images = torch.tensor(problem["images"]).permute(0, 3, 1, 2).contiguous()
        labels = torch.tensor(problem["labels"].astype(np.int64))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    attack = golden.reference(model, "Linf")
    attack.attacks_to_run = attacks
    start, used = time.perf_counter(), time.process_time()
    adversarial = attack.run_standard_evaluation(images, labels)[0]
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - used
    with torch.no_grad():
        is_robust = (model(adversarial).argmax(1) == labels).numpy()
    robust = float(is_robust.mean())
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "interval": (robust, robust),
        "standing": np.packbits(is_robust).tobytes().hex(),
    }


def ask(side: str, options: argparse.Namespace, problem: Path) -> dict[str, Any]:
    """Runs a side in a process of its own and prints its row."""
    python = options.reference if side == "torch" else sys.executable
    command = [python, __file__, "--side", side.split()[0], "--network", options.network]
    command += ["--problem", str(problem), "--attacks", options.attacks]
    if side == "jax to the tolerance":
        command += ["--tolerance", str(options.tolerance)]
    environment = {"JAX_NUM_CPU_DEVICES": str(len(os.sched_getaffinity(0))), **os.environ}
    output = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    found = json.loads(output.splitlines()[-1])
    low, high = found["interval"]
    print(
        f"{side:20} {found['seconds']:7.1f} s wall {found['cpu_seconds']:7.1f} s CPU"
        f"  robust accuracy {low:.4f} to {high:.4f}  {found.get('by_attack', '')}",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", default=sys.executable, help="Python of the PyTorch side")
    parser.add_argument("--network", default="adversarial", choices=["adversarial", "standard"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--attacks", default="apgd-ce,apgd-t,fab-t,square")
    parser.add_argument("--tolerance", type=float, help="of a third row, such as 0.003")
    parser.add_argument("--side", choices=["jax", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--problem", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run = run_jax if options.side == "jax" else run_torch
        print(json.dumps(run(options, options.attacks.split(","))))
        return

    import numpy as np

    from bat_jax import data

    test = data.load("fashion_mnist").test
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder) / "problem.npz"
        images = test.images[: options.images].astype(np.float32) / np.float32(255)
        np.savez(problem, images=images, labels=test.labels[: options.images])
        sides = ["jax", "torch", *(["jax to the tolerance"] if options.tolerance else [])]
        found = {side: ask(side, options, problem) for side in sides}
    print(f"{options.network}, {options.images} images, {options.attacks}")
    for side in sides:
        if side != "torch":
            wall, cpu = (found[side][k] / found["torch"][k] for k in ("seconds", "cpu_seconds"))
            print(f"{side} / PyTorch: {wall:.2f} of the wall time, {cpu:.2f} of the CPU time")
    ours, theirs = (
        np.unpackbits(np.frombuffer(bytes.fromhex(found[side]["standing"]), np.uint8))
        for side in ("jax", "torch")
    )
    differ = int((ours != theirs).sum())
    print(f"verdicts that differ: {differ} of {options.images}")


if __name__ == "__main__":
    main()
