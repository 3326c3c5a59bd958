"""CIFAR-100 by the fast recipes: trained, tested, attacked, compared with released memorization."""

import itertools
import logging
import statistics
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import jobs
from bat_jax.attacks.auto_attack import STANDARD
from bat_jax.evaluation import runs
from bat_jax.runtime.files import written_whole
from stages import recipes, typicality
from stages.machine import HIGHEST, precision
from stages.stage import Stage, Values, is_out_of_memory
from stages.typicality import CSCORES, PAIRS

# Public figures of long recipes, Linf 8/255, beside which these stand. The configs of the methods
# name the sources.
ANCHORS: dict[str, dict[str, float]] = {
    "pgd_at": {"clean": 0.5676, "pgd20": 0.2891, "autoattack": 0.1895},
    "trades": {"clean": 0.5477, "pgd20": 0.2790, "autoattack": 0.2170},
}
# Seconds: less than these is not worth the compilation. A cut training goes on later.
NEEDS = {"training": 60.0, "autoattack": 60.0, "all": 120.0}
# The small files of a run, which comparisons of runs read.
KEPT = ("config.json", "results.json", "metrics.jsonl", "examples.npz", "train_examples.npz")
_PARTS = 8


def run(stage: Stage) -> None:
    """Trains every method with every seed, as far as the time goes."""
    if stage.run.data is None:
        stage.skip("data", "there is no --data", precision="-", seeds=stage.run.seeds)
        return
    first, *others = (8,) if stage.run.smoke else (1_000, 10_000)
    trainings = list(itertools.product(stage.run.seeds, stage.run.methods))
    for seed, method in trainings:
        _trained(stage, method, seed)
        _compared(stage, method, seed)
        _attacked(stage, method, seed, first)
    for size, (seed, method) in itertools.product(others, trainings):
        _attacked(stage, method, seed, size)


def _trained(stage: Stage, method: str, seed: int) -> None:
    """Trains a method and tests it on the whole test set."""
    config = recipes.training(stage.run, method, seed=seed)
    about: dict[str, Any] = {
        "precision": f"training {precision(config.model.dtype)}, tests {HIGHEST}",
        "seeds": (seed,),
    }
    key = f"{method}/seed {seed}"

    def measured() -> Values:
        began = time.monotonic()
        with _noting(stage, key, about):
            results, folder, parts = train(stage, config, _folder(method, seed))
        _keep(stage, folder, folder.name)
        rates = runs.read(folder).series("train", "images_per_second")[1]
        found: Values = {
            f"{state}_{name}": results[state]["test"][name]["accuracy"]
            for state in ("best", "last")
            for name in ("clean", f"pgd{config.evaluation.num_steps}")
        }
        found |= {
            "n": results["last"]["test"]["clean"]["n"],
            "training_minutes": results["seconds"] / 60,
            "images_per_second": statistics.median(rates),
            "minutes_in_this_run": (time.monotonic() - began) / 60,
            "folder": folder.name,
            "intervals": {
                f"{state}_{name}": results[state]["test"][name]["interval"]
                for state in ("best", "last")
                for name in results[state]["test"]
            },
            "anchor": ANCHORS.get(method, {}),
        }
        return found if parts == 1 else {**found, "accumulation": parts}

    needs = 2 if stage.run.smoke else NEEDS["training"]
    stage.measure(key, measured, needs=needs, by_card=False, **about)


def train(stage: Stage, config: ConfigDict, name: str) -> tuple[Any, Any, int]:
    """Trains with the batch in as few parts as the memory allows.

    Returns:
      The content of results.json, the run's folder, and the number of parts.
    """
    parts = 1
    while True:
        config.train.accumulation = parts
        # A folder of its own, since the parts belong to a run's config.
        folder = stage.run.work / "cifar100" / (name if parts == 1 else f"{name}-{parts}_parts")
        try:
            return jobs.train_and_evaluate(config, folder), folder, parts
        except Exception as error:
            if not is_out_of_memory(error) or parts == _PARTS:
                raise
        parts *= 2
        stage.note(
            name,
            f"out of memory: on with the batch of {config.train.batch_size} in {parts} parts",
            precision=precision(config.model.dtype),
            seeds=(config.seed,),
        )


def _compared(stage: Stage, method: str, seed: int) -> None:
    """Compares a trained method with released memorization, where that is there."""
    run, released = _run(stage, method, seed), stage.run.released
    key, about = f"{method}/seed {seed}/memorization", {"precision": "-", "seeds": (seed,)}
    if not stage.has(key, by_card=False) and not (run / "results.json").exists():
        stage.skip(key, f"{run} holds no finished run", **about)
    elif released is None or not any((released / name).exists() for name in (CSCORES, PAIRS)):
        stage.skip(key, f"--data holds neither {CSCORES} nor {PAIRS}", **about)
    else:
        stage.measure(key, lambda: typicality.of_run(run, released), by_card=False, **about)


def _attacked(stage: Stage, method: str, seed: int, size: int) -> None:
    """Runs AutoAttack on the best state of a trained method."""
    key, about = f"{method}/seed {seed}/autoattack {size}", {"seeds": (seed,), "by_card": False}
    run = _run(stage, method, seed)
    if not stage.has(key, by_card=False) and not (run / "results.json").exists():
        why = f"{run} holds no finished run"
        stage.skip(key, why, precision=HIGHEST, seeds=(seed,))
        return

    def attack() -> Values:
        config = configs.evaluation()
        config.run = str(run)
        config.checkpoints = ("best",)
        config.evaluation.attacks = ("apgd-ce",) if stage.run.smoke else STANDARD
        config.evaluation.attacked = ("best",)
        config.evaluation.losses = ()  # The training's own test has PGD.
        # Faster on an accelerator; float32 confirms every image that it finds.
        config.evaluation.search_dtype = "bfloat16"
        config.evaluation.subset = size
        config.evaluation.batch_size = min(size, 1_000)
        began = time.monotonic()
        results, folder = jobs.evaluate_run(config, run / f"autoattack-{size}")
        _keep(stage, folder, f"{run.name}-{folder.name}")
        best = results["best"]
        found = best["test"]["autoattack"]
        return {
            "accuracy": found["accuracy"],
            "n": found["n"],
            "interval": found["interval"],
            "clean": best["test"]["clean"]["accuracy"],
            "broken_by": best.get("broken_by", {}),
            "searched_in": config.evaluation.search_dtype,
            "minutes": (time.monotonic() - began) / 60,
            "anchor": ANCHORS.get(method, {}).get("autoattack", "-"),
        }

    needs = NEEDS["autoattack" if size <= 1_000 else "all"]
    stage.measure(key, attack, precision=HIGHEST, needs=2 if stage.run.smoke else needs, **about)


def _run(stage: Stage, method: str, seed: int) -> Path:
    """Returns the folder of a training run; one with its batch in parts has a folder of its own."""
    trained = stage.find(f"{method}/seed {seed}", by_card=False)
    return stage.run.work / "cifar100" / (trained or {}).get("folder", _folder(method, seed))


def _keep(stage: Stage, run: Any, name: str) -> None:
    """Writes `<name>.tar` beside the records: the small files of a run, without its states."""
    files = [run / part for part in KEPT if (run / part).exists()]
    with (
        written_whole(stage.run.records.folder / f"{name}.tar") as target,
        tarfile.open(fileobj=target, mode="w") as archive,
    ):
        for path in files:
            archive.add(path, f"{name}/{path.name}")


def _folder(method: str, seed: int) -> str:
    return f"{method}-{seed}"


@contextmanager
def _noting(stage: Stage, key: str, about: dict[str, Any]) -> Iterator[None]:
    """Records the line of every validation, which a run that is cut off would lose."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stage.note(key, record.getMessage(), **about)

    log, handler = logging.getLogger("bat_jax.training.loop"), Handler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = True
