"""Compares methods and their options on 1,000 images of Fashion-MNIST, in the findings' setting.

    JAX_NUM_CPU_DEVICES=1 python benchmarks/methods.py --workdir=runs/methods
    python benchmarks/methods.py --workdir=runs/methods --table

Every arm is `configs/fashion_mnist_findings.py` with one method and the changes in `ARMS`. All arms
are trained first, then AutoAttack attacks their best states. Finished work is not repeated; several
processes may share the folder if each has seeds of its own (`--seeds=0`). `--table` prints what is
there: accuracies with 95 % Student's t intervals over seeds, PGD-20 of the best state minus that of
the last one, and the processor time of training with its test under PGD-20.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STEP = "step"  # The step size in units of epsilon, which is known after the config is read.
FAST = {"attack.num_steps": 1, "train.collapse.watch": True}

# The method, and fields of the config. Epochs are those of the papers, scaled to the same place
# between the two decays of the learning rate.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd_at": ("pgd_at", {}),
    "pgd_at_awp": ("pgd_at", {"objective.awp.gamma": 0.01}),
    "pgd_at_awp_later": (
        "pgd_at",
        {"objective.awp.gamma": 0.01, "objective.awp.start_epoch": 10.0},
    ),
    "pgd_at_awp_twice": (
        "pgd_at",
        {"objective.awp.gamma": 0.02, "objective.awp.start_epoch": 10.0},
    ),
    "trades": ("trades", {}),
    "trades_awp": ("trades", {"objective.awp.gamma": 0.005, "objective.awp.start_epoch": 3.0}),
    "bat": ("bat", {}),
    "bat_awp": ("bat", {"objective.awp.gamma": 0.01}),
    "te": ("te", {"objective.te.start_epoch": 36.0, "objective.te.ramp_epochs": 16.0}),
    "te_awp": (
        "te",
        {
            "objective.te.start_epoch": 36.0,
            "objective.te.ramp_epochs": 16.0,
            "objective.awp.gamma": 0.01,
        },
    ),
    "fgsm_rs": ("pgd_at", {**FAST, STEP: 1.25}),
    "n_fgsm": ("pgd_at", {**FAST, STEP: 1.0, "attack.start_radius": 2.0, "attack.project": False}),
    "grad_align": ("grad_align", {**FAST, STEP: 1.0, "attack.random_start": False}),
    "mart": ("mart", {}),
    "mart_awp": ("mart", {"objective.awp.gamma": 0.005}),
    "gairat": ("gairat", {}),
    "gairat_awp": ("gairat", {"objective.awp.gamma": 0.01}),
}


def config_of(arm: str, seed: int, epsilon: float | None) -> Any:
    """Returns the config of an arm and seed, without AutoAttack."""
    from bat_jax.findings.plan import trained
    from configs import fashion_mnist_findings

    method, changes = ARMS[arm]
    config = fashion_mnist_findings.get_config()
    if epsilon is not None:
        for section in (config.attack, config.evaluation):
            section.step_size *= epsilon / config.attack.epsilon
        config.attack.epsilon = epsilon
    config.findings.tracked = ("pgd_at",)
    config = trained(config, "methods", method, seed)
    config.evaluation.track.images = 0
    config.evaluation.attacks = ()
    changes = dict(changes)
    if STEP in changes:
        config.attack.step_size = changes.pop(STEP) * config.attack.epsilon
    config.update_from_flattened_dict(changes)
    return config


def mislabelled(name: str, fraction: float, seed: int) -> Any:
    """Returns a data set with another label for a random fraction of the training images."""
    import dataclasses

    import numpy as np

    from bat_jax import data

    dataset = data.load(name)
    draws, train = np.random.default_rng(seed), dataset.train
    moves = draws.integers(1, dataset.num_classes, len(train)) * (
        draws.random(len(train)) < fraction
    )
    labels = ((train.labels + moves) % dataset.num_classes).astype(train.labels.dtype)
    return dataclasses.replace(dataset, train=dataclasses.replace(train, labels=labels))


def train(arm: str, seed: int, folder: Path, settings: argparse.Namespace) -> None:
    """Trains and tests an arm unless it is finished, and records its processor time."""
    import bat_jax

    if (folder / "results.json").exists():
        return
    resumed = folder.exists()
    start = time.process_time()
    config, dataset = config_of(arm, seed, settings.epsilon), None
    if settings.wrong_labels:
        dataset = mislabelled(config.data.name, settings.wrong_labels, seed)
    bat_jax.fit(config, dataset=dataset, workdir=folder)
    results = json.loads((folder / "results.json").read_text())
    minutes = (time.process_time() - start) / 60
    line = {"run": folder.name, "cpu_minutes": round(minutes, 3), "resumed": resumed}
    with (folder.parent / "times.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(folder.name, json.dumps(results["best"]["test"]), line, flush=True)


def attack(folder: Path, tolerance: float | None, *, state: str = "best") -> None:
    """Attacks a state of a run with AutoAttack, unless that is done."""
    from bat_jax.jobs.evaluate import evaluate_run
    from configs import evaluation

    if not (folder / "results.json").exists() or (folder / "autoattack/results.json").exists():
        return
    config = evaluation.get_config()
    config.run = str(folder)
    config.checkpoints = (state,)
    config.evaluation.tolerance = tolerance
    results, _ = evaluate_run(config, folder / "autoattack")
    print(folder.name, json.dumps(results[state]["test"]), flush=True)


def main() -> None:
    """Trains and attacks, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=ROOT / "runs" / "methods")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--epsilon", type=float, help="another radius, steps in proportion")
    parser.add_argument("--wrong-labels", type=float, help="fraction of the training labels")
    parser.add_argument("--no-autoattack", action="store_true")
    parser.add_argument("--tolerance", type=float, help="of AutoAttack; without it, all of it runs")
    parser.add_argument("--table", action="store_true", help="print the results so far")
    settings = parser.parse_args()
    if settings.wrong_labels and not settings.no_autoattack:
        parser.error("--wrong-labels needs --no-autoattack: AutoAttack reads the data set's labels")
    arms = settings.arms.split(",")
    seeds = [int(seed) for seed in settings.seeds.split(",")]
    folders = {
        (arm, seed): settings.workdir / f"{arm}-seed{seed}" for seed in seeds for arm in arms
    }
    if settings.table:
        print("\n".join(table(settings.workdir, arms, folders)))
        return
    for (arm, seed), folder in folders.items():
        train(arm, seed, folder, settings)
    if not settings.no_autoattack:
        for folder in folders.values():
            attack(folder, settings.tolerance)


def table(workdir: Path, arms: list[str], folders: dict[tuple[str, int], Path]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    times = {}
    if (workdir / "times.jsonl").exists():
        for line in (workdir / "times.jsonl").read_text().splitlines():
            record = json.loads(line)
            if not record["resumed"]:
                times[record["run"]] = record["cpu_minutes"]
    head = ("arm", "seeds", "best, clean", "best, PGD-20", "best, AutoAttack", "last, clean")
    head += ("last, PGD-20", "best - last, PGD-20", "CPU minutes")
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for arm in arms:
        runs = [folder for (name, _), folder in folders.items() if name == arm]
        runs = [folder for folder in runs if (folder / "results.json").exists()]
        read = [json.loads((folder / "results.json").read_text()) for folder in runs]
        tested = [r["best"]["test"]["clean"]["n"] for r in read]
        percent = partial(interval, images=min(tested, default=None), scale=100)
        cells = [
            percent([r[state]["test"][measure]["accuracy"] for r in read])
            for state in ("best", "last")
            for measure in ("clean", "pgd20")
        ]
        attacked = [folder / "autoattack/results.json" for folder in runs]
        attacked = [json.loads(path.read_text()) for path in attacked if path.exists()]
        robust = percent([r["best"]["test"]["autoattack"]["accuracy"] for r in attacked])
        if len(attacked) != len(read):
            robust += f" [{len(attacked)}]"
        pgd = [[r[s]["test"]["pgd20"]["accuracy"] for s in ("best", "last")] for r in read]
        gap = percent([best - last for best, last in pgd])
        minutes = interval([times[f.name] for f in runs if f.name in times], digits=2)
        row = [arm, len(read), *cells[:2], robust, *cells[2:], gap, minutes]
        yield "| " + " | ".join(map(str, row)) + " |"


def interval(
    values: list[float], *, digits: int = 1, images: int | None = None, scale: float = 1
) -> str:
    """Returns the mean, times a scale, with its 95 % Student's t interval.

    Args:
      values: one per seed.
      digits: after the decimal point.
      images: on which each value, an accuracy or a difference of two, was measured.
      scale: 100 for percent.
    """
    from bat_jax.evaluation.statistics import over_seeds

    if not values:
        return "-"
    found = over_seeds(values, images=images)
    mean = f"{scale * found['mean']:.{digits}f}"
    if len(values) == 1:
        return mean
    low, high = (scale * end for end in found["interval"])
    return f"{mean} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
