"""Aggregates of the estimates: typical and atypical counts, and how far to trust them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bat_jax.data.dataset import positions
from bat_jax.memorization.agreement import of_halves
from bat_jax.memorization.estimates import Estimates
from bat_jax.memorization.ranking import rank_correlation
from bat_jax.memorization.typicality import Typicality, helped_by_chance, split

# Memorization estimated from the even members, and from the odd ones.
Halves = tuple[Float[np.ndarray, " train"], Float[np.ndarray, " train"]]

# Thresholds to count at, besides the config's.
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8)


# Numbers of members to compare split halves at, besides all.
SIZES = (50, 100, 200, 500, 1000, 2000, 5000)


def sizes(members: int) -> list[int]:
    """Returns the numbers of members to compare split halves at; the last one is all members."""
    return [*(size for size in SIZES if size < members), members]


def summarize(
    estimates: Estimates,
    halves: Mapping[int, Halves],
    *,
    members: int,
    threshold: float,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Returns the content of results.json; unknown numbers are absent.

    Args:
      estimates: estimates from all members.
      halves: for each of `sizes`, memorization from the even and from the odd ones of the first
        members.
      members: number of members.
      threshold: examples with memorization above it are atypical.
      class_names: names of the classes, by label.
    """
    results: dict[str, Any] = {
        "members": members,
        "threshold": threshold,
        "train": _counts(estimates, split(estimates, threshold), "train", class_names),
        "sweep": [_swept(estimates, t) for t in sorted({*THRESHOLDS, threshold})],
    }
    if estimates.influence:
        results["test"] = _counts(estimates, split(estimates, threshold), "test", class_names)
    if estimates.memorization_se is not None:
        by_members = {size: _agreement(size, *pair) for size, pair in halves.items()}
        results["split_half_by_members"] = [row for row in by_members.values() if row]
        found = {"rank_correlation": by_members[members].get("rank_correlation", math.nan)}
        # The error of an estimate from margins is that of a posterior, which halves do not double.
        if estimates.estimator is None:
            agreement = of_halves(*halves[members], standard_error=estimates.memorization_se)
            found |= {"variance_of_z": agreement.variance, "n": agreement.examples}
        results["split_half"] = {
            name: value for name, value in found.items() if math.isfinite(value)
        }
        known = np.isfinite(estimates.memorization_se)
        if known.any():
            results["mean_standard_error"] = float(np.mean(estimates.memorization_se[known]))
    return results


def table(results: dict[str, Any]) -> str:
    """Returns the results as text for a terminal."""
    train = results["train"]
    lines = [
        f"{results['members']:,} members; an example is atypical above {results['threshold']}",
        f"training: {train['atypical']:,} atypical, {train['typical']:,} typical,"
        f" {train['unknown']:,} unknown of {train['examples']:,}",
    ]
    if "test" in results:
        test = results["test"]
        lines.append(
            f"test: {test['atypical']:,} atypical, {test['typical']:,} typical of"
            f" {test['examples']:,}"
        )
    if "mean_standard_error" in results:
        lines.append(f"mean standard error of memorization: {results['mean_standard_error']:.4f}")
    agreement = results.get("split_half", {})
    if "rank_correlation" in agreement:
        lines.append(f"split halves: rank correlation {agreement['rank_correlation']:.3f}")
    by_members = results.get("split_half_by_members", [])
    if len(by_members) > 1:
        correlations = (f"{row['members']:,}: {row['rank_correlation']:.3f}" for row in by_members)
        lines.append(f"the same by number of members: {', '.join(correlations)}")
    if "variance_of_z" in agreement:
        lines.append(
            f"split halves: difference over predicted spread has variance"
            f" {agreement['variance_of_z']:.2f} (n = {agreement['n']:,})"
        )
    lines.append("\n   t   atypical training / test / by chance")
    for row in results["sweep"]:
        test = f"{row['test_atypical']:8,}" if "test_atypical" in row else "        "
        chance = f"{row['test_by_chance']:8,}" if "test_by_chance" in row else ""
        lines.append(f"{row['threshold']:5.2f} {row['train_atypical']:8,} {test} {chance}".rstrip())
    return "\n".join(lines)


def _agreement(
    members: int, first: Float[np.ndarray, " train"], second: Float[np.ndarray, " train"]
) -> dict[str, Any]:
    """Returns the rank correlation of two halves with its interval; empty if undefined."""
    known = np.isfinite(first) & np.isfinite(second)
    measured = rank_correlation(first[known], second[known])
    if math.isnan(measured.value):
        return {}
    return {
        "members": members,
        "rank_correlation": measured.value,
        "n": measured.n,
        "interval": list(measured.interval),
    }


def _counts(
    estimates: Estimates, sets: Typicality, part: str, class_names: Sequence[str]
) -> dict[str, Any]:
    if part == "train":
        labels, ids = estimates.train_labels, estimates.train_ids
        atypical, typical = sets.train_atypical, sets.train_typical
    else:
        assert sets.test_atypical is not None
        assert sets.test_typical is not None
        labels, ids = estimates.test_labels, estimates.test_ids
        atypical, typical = sets.test_atypical, sets.test_typical
    places = positions(ids, atypical)
    by_class = np.bincount(labels[places], minlength=len(class_names))
    sizes = np.bincount(labels, minlength=len(class_names))
    return {
        "examples": len(ids),
        "atypical": len(atypical),
        "typical": len(typical),
        "unknown": len(ids) - len(atypical) - len(typical),
        "atypical_by_class": {
            name: {"atypical": int(count), "examples": int(size)}
            for name, count, size in zip(class_names, by_class, sizes, strict=True)
        },
    }


def _swept(estimates: Estimates, threshold: float) -> dict[str, Any]:
    sets = split(estimates, threshold)
    row: dict[str, Any] = {"threshold": threshold, "train_atypical": len(sets.train_atypical)}
    if sets.test_atypical is not None:
        row["test_atypical"] = len(sets.test_atypical)
        row["test_by_chance"] = helped_by_chance(estimates, threshold)
    return row


def strongest_pairs(
    estimates: Estimates, threshold: float, number: int
) -> list[tuple[int, int, float]]:
    """Returns the pairs with the highest influence: training row, test row, infl(i, j).

    Only training examples with memorization above the threshold count, each of them once.
    """
    found = []
    for block in estimates.influence:
        for place in np.flatnonzero(estimates.memorization[block.train] > threshold):
            values = block.values[place]
            if not np.isnan(values).all():
                column = int(np.nanargmax(values))
                found.append(
                    (int(block.train[place]), int(block.test[column]), float(values[column]))
                )
    return sorted(found, key=lambda pair: -pair[2])[:number]
