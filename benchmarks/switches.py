"""Measures what every switch of the recipe adds to a training step, as a ratio to the plain step.

    python benchmarks/switches.py

All steps are compiled first, in one process, and then take turns, each in an order of its own, so
that a slowdown of the machine affects all of them. A ratio is that of one switch's step to the
plain step of the same turn; the table has the median over turns with the smallest and largest. The
plain step is PGD-AT on random images; it is there twice, to show what a ratio of 1 looks like. SWA
adds nothing to a step, and to every averaged epoch one pass that recomputes batch statistics; the
collapse detector adds three forward passes to every validation.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import sides

CASES = {
    "small_cnn": {"model.name": "small_cnn", "model.width": 16, "shape": (28, 28, 1)},
    "preact_resnet18": {"model.name": "preact_resnet18", "model.width": 16, "shape": (32, 32, 3)},
}
ONE_STEP = {"attack.num_steps": 1, "attack.step_size": 10 / 255, "train.collapse.watch": True}
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain again": {},
    "AWP": {"objective.awp.gamma": 0.01},
    "temporal ensembling": {"objective.name": "te", "objective.te.start_epoch": 0.0},
    "label smoothing": {"train.label_smoothing": 0.1},
    "CutMix": {"data.cutmix": True},
    "extra data": {"data.extra": "FILE"},
    "Nesterov": {"train.optimizer.nesterov": True},
    "AdamW": {"train.optimizer.name": "adamw"},
    "rate warm-up": {"train.schedule.warmup_epochs": 1.0},
    "epsilon warm-up": {"attack.warmup_epochs": 1.0},
    "EMA": {"train.ema": 0.995},
    "EMA with rising decay": {"train.ema": 0.995, "train.ema_warmup": True},
    "SWA": {"train.swa_start_epoch": 0},
    "SiLU": {"model.activation": "silu"},
    "FGSM-RS": ONE_STEP,
    "N-FGSM": {**ONE_STEP, "attack.project": False, "attack.start_radius": 2.0},
    "GradAlign": {**ONE_STEP, "objective.name": "grad_align", "attack.random_start": False},
}


def step_of(case: dict[str, Any], changes: dict[str, Any], batch: int) -> Callable[[], float]:
    """Returns a function that takes one training step and returns its seconds."""
    import jax
    import numpy as np

    from bat_jax import parallel
    from bat_jax.config import default
    from bat_jax.data import Dataset, Split
    from bat_jax.training.building import build
    from bat_jax.training.flops import lowered_step

    draws = np.random.default_rng(0)

    def images(count: int) -> Split:
        pixels = draws.integers(0, 256, (count, *case["shape"]), np.uint8)
        return Split(pixels, np.arange(count, dtype=np.int32) % 10, np.arange(count))

    config = default()
    config.data.name = "random"
    config.data.validation = batch
    config.train.batch_size = config.evaluation.batch_size = batch
    config.objective.name = "pgd_at"
    changes = {**{name: value for name, value in case.items() if name != "shape"}, **changes}
    with tempfile.TemporaryDirectory() as folder:
        if "data.extra" in changes:
            extra = images(8 * batch)
            changes["data.extra"] = f"{folder}/extra.npz"
            np.savez(changes["data.extra"], image=extra.images, label=extra.labels)
        config.update_from_flattened_dict(changes)
        train, test = images(9 * batch), images(batch)
        experiment = build(config, dataset=Dataset("random", train, test, tuple("0123456789")))
    step = lowered_step(experiment).compile()
    order = parallel.replicate(experiment.order(0, 0), experiment.mesh)
    data, root = experiment.train_data(), experiment.root()
    carried = [experiment.initial_state()]

    def take() -> float:
        began = time.perf_counter()
        carried[0], metrics = step(carried[0], data, order, root)
        jax.block_until_ready((carried[0], metrics))
        return time.perf_counter() - began

    take()
    return take


def main() -> None:
    """Prints the table of one case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="small_cnn")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=31)
    parser.add_argument("--switches", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    options = parser.parse_args()

    from bat_jax.runtime import backend

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # As launch.py does.
    backend.prepare(compilation_cache="none")
    backend.use_cores_as_devices(sharing=(options.batch,))
    steps = {}
    for name in dict.fromkeys(["plain", *options.switches]):
        steps[name] = step_of(CASES[options.case], SWITCHES[name], options.batch)
        print(f"{name}: compiled", file=sys.stderr, flush=True)
    draws = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.turns):
        for name in draws.sample(list(steps), len(steps)):
            seconds[name].append(steps[name]())
    rows = []
    for name, taken in seconds.items():
        ratios = [one / plain for one, plain in zip(taken, seconds["plain"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append((name, sides.spread(taken), f"**{statistics.median(ratios):.3f}** ({spread})"))
    sides.print_table(("switch", "step", "ratio"), rows)


if __name__ == "__main__":
    main()
