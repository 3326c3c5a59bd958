"""Compares AutoAttack in JAX and in PyTorch: same network, same images, same cores, one run.

    python benchmarks/autoattack.py --reference=/tmp/reference/bin/python

The network and the PyTorch side are those of tests/golden/make_autoattack.py, whose docstring
explains how to make the reference's environment; any Python that imports torch and pyautoattack
will do. Each side is its own process and uses all available cores: PyTorch with one thread per
core, JAX with one CPU device per core. Times are of the whole call, including compilation but not
imports. On a busy machine PyTorch's threads wait for one another: prefix the command with
`taskset -c 0` to give both sides one core, and compare CPU seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"


def run_jax(network: str, count: int, attacks: list[str]) -> dict[str, float]:
    import jax
    import numpy as np
    from flax.traverse_util import unflatten_dict

    from bat_jax import data, models
    from bat_jax.attacks import autoattack

    with np.load(GOLDEN / f"small_cnn_{network}.npz", allow_pickle=False) as archive:
        parameters = unflatten_dict({tuple(name.split("/")): archive[name] for name in archive})
    model = models.create("small_cnn", 10, width=8)
    split = data.load("fashion_mnist").test
    images = split.images[:count].astype(np.float32) / np.float32(255)
    key = jax.random.key(0)
    start, used = time.perf_counter(), time.process_time()
    result = autoattack(
        lambda x: model.apply({"params": parameters}, x),
        images,
        split.labels[:count],
        key,
        epsilon=0.1,
        attacks=tuple(attacks),
        keep_adversarial=False,
    )
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - used,
        "robust": float(result.robust.mean()),
    }


def run_torch(network: str, count: int, attacks: list[str]) -> dict[str, float]:
    sys.path.insert(0, str(GOLDEN))
    import make_autoattack as golden
    import torch

    model = golden.SmallCNN(GOLDEN / f"small_cnn_{network}.npz").eval()
    images, labels = (values[:count] for values in golden.test_images())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    attack = golden.reference(model, "Linf")
    attack.attacks_to_run = attacks
    start, used = time.perf_counter(), time.process_time()
    adversarial = attack.run_standard_evaluation(images, labels)[0]
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - used
    with torch.no_grad():
        robust = (model(adversarial).argmax(1) == labels).float().mean()
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "robust": float(robust)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", default=sys.executable, help="Python of the PyTorch side")
    parser.add_argument("--network", default="adversarial", choices=["adversarial", "standard"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--attacks", default="apgd-ce,apgd-t,fab-t,square")
    parser.add_argument("--side", choices=["jax", "torch"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    attacks = options.attacks.split(",")
    if options.side:
        run = run_jax if options.side == "jax" else run_torch
        print(json.dumps(run(options.network, options.images, attacks)))
        return

    found = {}
    for side, python in (("jax", sys.executable), ("torch", options.reference)):
        command = [python, __file__, "--side", side, "--network", options.network]
        command += ["--images", str(options.images), "--attacks", options.attacks]
        environment = {"JAX_NUM_CPU_DEVICES": str(len(os.sched_getaffinity(0))), **os.environ}
        output = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, check=True, text=True
        ).stdout
        found[side] = json.loads(output.splitlines()[-1])
        print(
            f"{side:6} {found[side]['seconds']:7.1f} s wall {found[side]['cpu_seconds']:7.1f} s CPU"
            f"  robust accuracy {found[side]['robust']:.4f}",
            flush=True,
        )
    wall, cpu = (found["jax"][kind] / found["torch"][kind] for kind in ("seconds", "cpu_seconds"))
    print(f"{options.network}, {options.images} images, {options.attacks}")
    print(f"JAX / PyTorch: {wall:.2f} of the wall time, {cpu:.2f} of the CPU time")


if __name__ == "__main__":
    main()
