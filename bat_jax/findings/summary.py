"""Summarizes finished runs: the numbers of the findings, over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bat_jax.evaluation.records import CLEAN, GROUPS, STATES, Accuracies, Measure, SampleRecord
from bat_jax.evaluation.runs import Run
from bat_jax.evaluation.statistics import over_seeds
from bat_jax.evaluation.tracking import SETS
from bat_jax.findings import design
from bat_jax.findings.differences import Arms, adjust, compared, removed
from bat_jax.findings.looks import over_looks
from bat_jax.findings.plan import attacks, comparisons, variant_arm
from bat_jax.findings.removal import removals
from bat_jax.methods import has_attack


def summarize(config: ConfigDict, arms: Arms, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Returns the numbers of findings (a), (b) and (c), of the ablation and of the regime.

    An accuracy, in [0, 1], has its `mean`, `interval` and `values` over `n` seeds, and the number
    of `images` behind each value; intervals are clipped to [0, 1]. Differences pair runs of the
    same seed.

    Args:
      config: of the findings.
      arms: the finished runs.
      sizes: by arm of (b), how many training images it leaves out.
    """
    settings = config.findings
    looks = tuple(settings.looks)
    strongest = attacks(config)
    tracked = strongest["tracked"]
    against: dict[str, list[str]] = {}
    for ours, other in comparisons(config):
        against.setdefault(ours, []).append(other)
    searched = {}
    if settings.factors:
        searched["design"] = _designed(
            arms, settings.factors.to_dict(), strongest["variants"]["last"]
        )
    methods = [
        row
        for state in STATES
        for ours, others in against.items()
        for row in compared(arms, ours, others, state, strongest["methods"][state], looks)
    ]
    named = [variant_arm(name) for name in settings.variants]
    variants = [
        row
        for state in STATES
        for row in compared(arms, "bat", named, state, strongest["variants"][state], looks)
    ]
    for rows in (methods, variants):
        adjust(rows)
    curves = {name: _curves(arms[name]) for name in settings.tracked}
    return {
        "attacks": strongest,
        "at_chance": [run.name for runs in arms.values() for run in runs if _is_at_chance(run)],
        "regime": _regime(arms["pgd_at"], tracked, settings.regime),
        "curves": curves,
        "gains": {name: _gains(arms[name], tracked, looks) for name in settings.tracked},
        "accuracies": {name: _accuracies(runs) for name, runs in arms.items()},
        "tested": config.data.tested,
        **_autoattack(arms),
        **_sampled(arms),
        **removed(arms, sizes, removals(settings), strongest["removal"], looks),
        "methods": methods,
        "variants": variants,
        **searched,
    }


def _designed(arms: Arms, factors: design.Factors, attack: str) -> dict[str, Any]:
    """Returns the effects of options on the places of the variants, and the winner.

    The score is the mean of clean and robust accuracy of the last state, which depends on no
    held-out image.
    """
    made = [arms[variant_arm(name)] for name in design.variants(factors)]
    clean, robust = (
        np.array(
            [
                [run.evaluations["last"].all[Measure.parse(key)].accuracy for run in runs]
                for runs in made
            ]
        )
        for key in (CLEAN.key, attack)
    )
    scores = {"score": (clean + robust) / 2, CLEAN.key: clean, attack: robust}
    found = {
        name: design.effects(design.places(values), factors) for name, values in scores.items()
    }
    return {
        "attack": attack,
        "factors": {name: list(levels) for name, levels in factors.items()},
        "effects": {
            name: {
                effect.factor: {
                    "mean": effect.mean,
                    "interval": list(effect.interval),
                    "n": clean.shape[1],
                }
                for effect in effects
            }
            for name, effects in found.items()
        },
        "medians": {name: design.medians(values, factors) for name, values in scores.items()},
        "winner": design.winner(found["score"], factors),
    }


def _is_at_chance(run: Run) -> bool:
    """Returns whether the best state's clean accuracy is hardly above chance: below twice that.

    With two classes, twice chance is 100 %; the bound is at most halfway from chance to it.

    A small network may collapse to a constant early in adversarial training and never recover.
    """
    chance = 1 / len(np.unique(run.examples["labels"]))
    least = min(2 * chance, (1 + chance) / 2)
    return bool(run.evaluations["best"].all[CLEAN].accuracy < least)


def _accuracies(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns the accuracy over seeds, by state, group (including `all`) and attack."""
    found: dict[str, Any] = {}
    for state in STATES:
        tests = [run.evaluations[state] for run in runs]
        found[state] = {"all": _of_group([test.all for test in tests])}
        for group in GROUPS:
            if all(group in test.groups for test in tests):
                found[state][group] = _of_group([test.groups[group] for test in tests])
    return found


def _of_group(tests: Sequence[Accuracies]) -> dict[str, Any]:
    return {
        measure.key: {
            **_accuracy([test[measure].accuracy for test in tests], images=value.n),
            "images": value.n,
        }
        for measure, value in tests[0].items()
    }


def _autoattack(arms: Arms) -> dict[str, Any]:
    """Returns the attacks that AutoAttack ran, if any run was evaluated with it."""
    tests = (test for runs in arms.values() for run in runs for test in run.evaluations.values())
    attacks = next((test.attacks for test in tests if test.attacks), None)
    return {} if attacks is None else {"autoattack": list(attacks)}


def _sampled(arms: Arms) -> dict[str, Any]:
    """Returns what AutoAttack's last attacks were run on, over all runs, if it was on samples."""
    samples: list[SampleRecord] = []
    for runs in arms.values():
        for run in runs:
            # `best` and `last` may be the same state, which is attacked once.
            by_step = {
                run.results[name]["step"]: test.sample
                for name, test in run.evaluations.items()
                if test.sample is not None
            }
            samples += by_step.values()
    if not samples:
        return {}
    return {
        "sampled": {
            "attacks": list(samples[0].attacks),
            "images": sum(sample.images for sample in samples),
            "drawn": sum(sample.drawn for sample in samples),
            "broken": sum(sample.broken for sample in samples),
            "widest": max(high - low for low, high in (sample.interval for sample in samples)),
        }
    }


def _accuracy(values: Sequence[float], *, images: int) -> dict[str, Any]:
    """Returns an accuracy over seeds, with its interval clipped to [0, 1]."""
    found = over_seeds(values, images=images)
    if "interval" in found:
        low, high = found["interval"]
        found["interval"] = [max(low, 0.0), min(high, 1.0)]
    return found


def _curves(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns the recorded epochs and the accuracy over seeds at each, by set and attack."""
    found: dict[str, Any] = {}
    for name in SETS:
        epochs, images = runs[0].series(name, "n")
        if not epochs:
            continue
        attacks = [key for key in _names(runs[0], name) if Measure.is_key(key)]
        found[name] = {"epochs": epochs, "images": int(images[-1])}
        for attack in attacks:
            series = [run.series(name, attack)[1] for run in runs]
            found[name][attack] = [
                _accuracy(values, images=int(images[-1])) for values in zip(*series, strict=True)
            ]
    return found


def _names(run: Run, split: str) -> list[str]:
    return list(next(record for record in run.records if record["split"] == split))


def _regime(runs: Sequence[Run], attack: str, bound: float) -> dict[str, Any]:
    """Returns whether pgd_at fits its training images under attack and leaves a gap to the test.

    Both are measured over all images with an estimate: typical and atypical ones, weighted by
    their numbers.
    """
    train, test = [], []
    for run in runs:
        train.append(_weighted(run, "train", attack))
        test.append(_weighted(run, "test", attack))
    gaps = [ours - theirs for ours, theirs in zip(train, test, strict=True)]
    followed = {part: _followed(runs[0], part) for part in ("train", "test")}
    found = {
        "train": _accuracy(train, images=followed["train"]),
        "test": _accuracy(test, images=followed["test"]),
        "gap": over_seeds(gaps, images=min(followed.values())),
    }
    low = found["gap"].get("interval", [found["gap"]["mean"]])[0]
    return {
        **found,
        "attack": attack,
        "bound": bound,
        "fits": found["train"]["mean"] >= bound,
        "has_gap": low > 0,
        "holds": found["train"]["mean"] >= bound and low > 0,
    }


def _weighted(run: Run, part: str, attack: str) -> float:
    """Returns the last accuracy on typical and atypical images, weighted by their numbers."""
    total, weight = 0.0, 0
    for group in GROUPS:
        values, sizes = run.series(f"{part}_{group}", attack)[1], _sizes(run, f"{part}_{group}")
        if values:
            total += values[-1] * sizes
            weight += sizes
    return total / weight


def _sizes(run: Run, name: str, which: str = "of") -> int:
    """Returns the size of the set; with `n`, the number of tracked images."""
    values = run.series(name, which)[1]
    return int(values[-1]) if values else 0


def _followed(run: Run, part: str) -> int:
    return sum(_sizes(run, f"{part}_{group}", "n") for group in GROUPS)


def _gains(runs: Sequence[Run], attack: str, looks: Sequence[int]) -> dict[str, Any]:
    """Returns the gains on test images while a method memorizes its atypical training images.

    The phase ends at the last record and begins where accuracy on atypical training images, as the
    method trains on them, is halfway between the first and the last record: on average over the
    seeds of the first look, so that later seeds change no gain of earlier ones.
    """
    trained_on = attack if has_attack(runs[0].config["objective"]["name"]) else CLEAN.key
    series = [run.series("train_atypical", trained_on) for run in runs]
    if not series[0][0]:
        return {}
    first = series[: looks[0]] if looks else series
    means = np.mean([values for _, values in first], axis=0)
    half = (means[0] + means[-1]) / 2
    onset = int(np.argmax(means >= half)) if means[-1] > means[0] else 0
    found: dict[str, Any] = {
        "from_epoch": series[0][0][onset],
        "to_epoch": series[0][0][-1],
        "memorized": over_seeds(
            [values[-1] - values[onset] for _, values in series],
            images=_sizes(runs[0], "train_atypical", "n"),
        ),
        "trained_on": trained_on,
    }
    for group in GROUPS:
        changes = {}
        for measure in (CLEAN.key, attack):
            values = [run.series(f"test_{group}", measure)[1] for run in runs]
            if values[0]:
                changes[measure] = [v[-1] - v[onset] for v in values]
        if changes:
            beyond = [c - r for c, r in zip(changes[CLEAN.key], changes[attack], strict=True)]
            images = _sizes(runs[0], f"test_{group}", "n")
            found[group] = {
                measure: over_looks(change, images=images, looks=looks)
                for measure, change in {**changes, "clean_minus_robust": beyond}.items()
            }
    return found
