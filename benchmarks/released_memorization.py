"""Compares the estimates of a run on classes of CIFAR-100 with released values.

    export PYTHONPATH=.
    python benchmarks/released_memorization.py RUN --cscores=FILE --pairs=FILE

RUN is a finished run of `configs/cifar100_classes_memorization.py` with `memorization.estimator`
margin. The files are the C-scores of Jiang et al., arXiv:2002.03206
(`cifar100-cscores-orig-order.npz`), and the high-influence pairs of Feldman & Zhang,
arXiv:2008.03703 (`cifar100_high_infl_pairs_infl0.15_mem0.25.npz`).
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

import numpy as np

from bat_jax.ensemble.estimation import opened
from bat_jax.memorization import estimate, released
from bat_jax.memorization.ranking import rank_correlation
from bat_jax.memorization.store import Scores, joined
from bat_jax.training.experiment import Experiment
from bat_jax.training.saved import read_run

INFLUENCE, MEMORIZATION = 0.15, 0.25  # Of the released pairs.
SIZES = (30, 50, 100, 200, 400, 800)


def read(run: Path) -> tuple[Experiment, Scores]:
    """Returns the experiment of a run and the scores of its members, in their order."""
    experiment = read_run(run)
    scores = joined(list(opened(experiment, run).read(10**6)))
    return experiment, scores.of(np.argsort(scores.members))


def memorization(scores: Scores) -> np.ndarray:
    return np.asarray(estimate(scores.masks, scores.train, estimator="margin").memorization)


def held_out(scores: Scores) -> np.ndarray:
    """Returns how often members without an image are wrong on it."""
    wrong = scores.train <= 0
    count = (~scores.masks).sum(0)
    return np.where(scores.masks, 0, wrong).sum(0) / np.where(count, count, np.nan)


def agreement(experiment: Experiment, scores: Scores, regular: np.ndarray) -> None:
    """Prints the rank correlation with 1 - C-score, and its noise ceiling, by members."""
    labels = experiment.train.labels
    sizes = [size for size in SIZES if size < len(scores.masks)] + [len(scores.masks)]
    for name, values_of in (("memorization", memorization), ("wrong held out", held_out)):
        for size in sizes:
            part = scores.of(np.arange(size))
            values = values_of(part)
            halves = [values_of(part.of(np.arange(size) % 2 == rest)) for rest in (0, 1)]
            known = np.isfinite(np.stack([values, *halves])).all(0)
            half = rank_correlation(halves[0][known], halves[1][known]).value
            # Spearman and Brown: the reliability of twice as many members. The released scores are
            # taken as exact.
            ceiling = np.sqrt(2 * half / (1 + half)) if half > 0 else np.nan
            found = rank_correlation(values[known], 1 - regular[known])
            print(
                f"{name}, {size} members: {found.value:.3f} ({found.interval[0]:.3f} to"
                f" {found.interval[1]:.3f}), n {found.n}, halves {half:.3f}, ceiling {ceiling:.3f}"
            )
        each = [
            rank_correlation(
                values[known & (labels == c)], 1 - regular[known & (labels == c)]
            ).value
            for c in np.unique(labels)
        ]
        print(f"  within classes: {', '.join(f'{value:.3f}' for value in each)}")


def pairs(experiment: Experiment, scores: Scores, given: released.Pairs) -> None:
    """Prints how many of the released pairs of these classes are found."""
    train, test = experiment.train, experiment.dataset.test
    row_of = {int(i): row for row, i in enumerate(train.ids)}
    column_of = {int(i): column for column, i in enumerate(test.ids)}
    inside = np.array(
        [
            int(i) in row_of and int(j) in column_of
            for i, j in zip(given.train, given.test, strict=True)
        ]
    )
    rows = np.array([row_of[int(i)] for i in given.train[inside]])
    columns = np.array([column_of[int(j)] for j in given.test[inside]])
    found = estimate(
        scores.masks,
        scores.train,
        scores.test,
        influence="full",
        estimator="margin",
    )
    block = found.influence[0]
    assert block.standard_error is not None
    same = train.labels[:, None] == test.labels
    is_pair = np.zeros(same.shape, bool)
    is_pair[rows, columns] = True
    z = block.values / np.where(block.standard_error > 0, block.standard_error, np.inf)
    print(f"{len(rows)} released pairs of {same.sum():,} of the same class")
    draws = np.random.default_rng(0)
    for name, values in (("influence", block.values), ("influence over its error", z)):
        others = np.sort(values[same & ~is_pair])
        below = np.searchsorted(others, values[rows, columns]) / len(others)
        resampled = below[draws.integers(0, len(below), (2000, len(below)))].mean(1)
        low, high = np.percentile(resampled, [2.5, 97.5])
        print(f"{name}: AUROC {below.mean():.3f} ({low:.3f} to {high:.3f})")
        # Among the training images of the class, for the test image of the pair.
        place = np.array(
            [
                np.sum(values[same[:, j], j] > values[i, j])
                for i, j in zip(rows, columns, strict=True)
            ]
        )
        print(
            "  among the class's training images, the pair's is the test image's first"
            f" {np.sum(place == 0)} times, of its first 10 {np.sum(place < 10)} times, median"
            f" {np.median(place) + 1:.0f}"
        )
    for least in (0.05, 0.1, INFLUENCE, 0.2, 0.3):
        over = same & (block.values > least)
        both = over & (found.memorization > MEMORIZATION)[:, None]
        print(
            f"influence above {least}: {over.sum():,} pairs, {np.sum(over & is_pair)} released;"
            f" with memorization above {MEMORIZATION}: {both.sum():,}, {np.sum(both & is_pair)}"
            f" released; below -{least}: {np.sum(same & (block.values < -least)):,}"
        )
    for least in (3.0, 4.0, 5.0):
        over = same & (z > least)
        print(
            f"beyond {least:g} standard errors: {over.sum():,} pairs, {np.sum(over & is_pair)}"
            f" released; harmful {np.sum(same & (z < -least)):,}"
        )
    ours, theirs = found.memorization[rows], given.memorization[inside]
    _, first = np.unique(rows, return_index=True)
    first = first[np.isfinite(ours[first])]
    print(
        f"memorization of {len(first)} training images of these pairs: ours"
        f" {ours[first].mean():.3f}, released {theirs[first].mean():.3f}, of all images ours"
        f" {np.nanmean(found.memorization):.3f}; rank correlation"
        f" {rank_correlation(ours[first], theirs[first])}"
    )
    ours, theirs = block.values[rows, columns], given.influence[inside]
    known = np.isfinite(ours)
    print(
        f"influence of {known.sum()} of these pairs: ours {ours[known].mean():.3f}, released"
        f" {theirs[known].mean():.3f}; rank correlation"
        f" {rank_correlation(ours[known], theirs[known])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cscores", required=True)
    parser.add_argument("--pairs", required=True)
    options = parser.parse_args()
    experiment, scores = read(options.run)
    right = scores.train > 0
    print(
        f"{len(scores.masks)} members; right in subset {right[scores.masks].mean():.3f}, outside"
        f" {right[~scores.masks].mean():.3f}, test {(scores.test > 0).mean():.3f}"
    )
    regular = released.load_cscores(options.cscores).scores[experiment.train.ids]
    agreement(experiment, scores, regular)
    pairs(experiment, scores, released.load_pairs(options.pairs))


if __name__ == "__main__":
    main()
