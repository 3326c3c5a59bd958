"""How memorization under attack differs from that on clean images: tables of finished runs.

    export PYTHONPATH=.
    python benchmarks/robust_memorization.py compare RUN
    python launch.py --config=configs/digits_robust_memorization.py --workdir=FLIPPED \
        --config.data.name=benchmarks.robust_memorization:flipped_digits
    python benchmarks/robust_memorization.py flipped FLIPPED
    python launch.py --config=configs/digits_robust_memorization.py --workdir=COPIED \
        --config.data.name=benchmarks.robust_memorization:copied_digits
    python benchmarks/robust_memorization.py copied COPIED

RUN is a finished run with `memorization.inputs` both and `memorization.influence` full. `compare`
counts significant influences by class and by memorization of the training image, against the same
counts after the members' subsets were exchanged at random. `flipped` gives the AUROC of detecting
training images with flipped labels, by the number of members. `copied` counts the copies of test
images that have the highest influence on them, and gives the memorization of training images that
have a copy, beside that of the same images without one, in docs/results.
"""

import argparse
import dataclasses
import os
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

import numpy as np

from bat_jax import data
from bat_jax.data import Dataset, Split
from bat_jax.ensemble.estimation import opened
from bat_jax.memorization import estimate, load
from bat_jax.memorization.contrast import SIGNIFICANT
from bat_jax.memorization.ranking import auroc, rank_correlation
from bat_jax.memorization.store import Scores, joined
from bat_jax.training.experiment import Experiment
from bat_jax.training.saved import read_run

DRAWS = 20
SIZES = (40, 80, 160, 320)
FLIPPED = 0.05
BEYOND, NEAREST = 6.0, 10
TRAIN_COPIES, TEST_COPIES, FIRST_ID = 67, 45, 10_000
PUBLISHED = Path(__file__).parents[1] / "docs/results"


def flipped_digits(path: str | None = None) -> Dataset:
    """Returns digits with 5 % of the training labels replaced by random other ones."""
    del path
    found = data.load("digits")
    train = dataclasses.replace(found.train, labels=flipped(found.train.labels))
    return dataclasses.replace(found, name="flipped_digits", train=train)


def flipped(labels: np.ndarray) -> np.ndarray:
    draws = np.random.default_rng(0)
    rows = draws.choice(len(labels), round(FLIPPED * len(labels)), replace=False)
    changed = labels.copy()
    changed[rows] = (changed[rows] + draws.integers(1, 10, len(rows))) % 10
    return changed


def copied_digits(path: str | None = None) -> Dataset:
    """Returns digits with copies of 67 training images and of 45 test images in the training set.

    Copies follow the training images, and their ids begin at 10,000.
    """
    del path
    found = data.load("digits")
    train, test = found.train, found.test
    from_train, from_test = copied(len(train), len(test))
    rows = np.concatenate([np.arange(len(train)), from_train])
    ids = FIRST_ID + np.arange(TRAIN_COPIES + TEST_COPIES)
    longer = Split(
        np.concatenate([train.images[rows], test.images[from_test]]),
        np.concatenate([train.labels[rows], test.labels[from_test]]),
        np.concatenate([train.ids, ids]),
    )
    return dataclasses.replace(found, name="copied_digits", train=longer)


def copied(train: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of the training images and of the test images that are copied."""
    draws = np.random.default_rng(0)
    return tuple(
        np.sort(draws.choice(count, copies, replace=False))
        for count, copies in ((train, TRAIN_COPIES), (test, TEST_COPIES))
    )


def read(run: Path) -> tuple[Experiment, Scores]:
    """Returns the experiment of a run and the scores of its members, in their order."""
    experiment = read_run(run)
    scores = joined(list(opened(experiment, run).read(10**6)))
    return experiment, scores.of(np.argsort(scores.members))


def influence(masks: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """Returns the influence of every pair over its standard error, 0 where that is 0."""
    found = estimate(masks, 1.0 + masks, tests, estimator="margin").influence[0]
    assert found.standard_error is not None
    safe = np.where(found.standard_error > 0, found.standard_error, np.inf)
    return np.asarray(found.values / safe)


def of_atypical(z: np.ndarray, same: np.ndarray, atypical: np.ndarray) -> dict[str, int]:
    """Returns numbers of significant pairs by sign, class and kind of the training image."""
    counts = {}
    for sign, found in (("helpful", z > SIGNIFICANT), ("harmful", z < -SIGNIFICANT)):
        for place, of_class in (("same class", same), ("other class", ~same)):
            for kind, rows in (("atypical", atypical), ("typical", ~atypical)):
                counts[f"{sign}, {place}, {kind}"] = int((found & of_class)[rows].sum())
    return counts


def compare(run: Path) -> None:
    experiment, scores = read(run)
    train, test = experiment.train, experiment.dataset.test
    same = train.labels[:, None] == test.labels
    threshold = experiment.config.memorization.threshold
    draws = np.random.default_rng(0)
    orders = [draws.permutation(len(scores.masks)) for _ in range(DRAWS)]
    kinds = {"clean": scores, "attacked": scores.attacked()}
    memorized = {
        name: estimate(of.masks, of.train, estimator="margin").memorization
        for name, of in kinds.items()
    }
    print(f"{len(scores.masks)} members, {len(train)} training and {len(test)} test images")
    for name, of in kinds.items():
        right = of.train > 0
        print(
            f"{name}: right in subset {right[of.masks].mean():.4f}, outside"
            f" {right[~of.masks].mean():.4f}, test {(of.test > 0).mean():.4f}; mean memorization"
            f" {np.nanmean(memorized[name]):.4f}, above {threshold}:"
            f" {np.sum(memorized[name] > threshold)}"
        )
        z = influence(of.masks, of.test)
        atypical = memorized[name] > threshold
        found = of_atypical(z, same, atypical)
        chance = [of_atypical(influence(of.masks[o], of.test), same, atypical) for o in orders]
        print(f"  {atypical.sum()} atypical; pairs beyond {SIGNIFICANT:g} standard errors:")
        for row, count in found.items():
            each = np.array([one[row] for one in chance])
            print(f"  {row}: {count} (by chance {each.mean():.1f} +- {each.std(ddof=1):.1f})")
        top(experiment, z, memorized[name])
        net(of, memorized[name])
    both = rank_correlation(memorized["clean"], memorized["attacked"])
    print(f"rank correlation of all members' estimates: {both}")


def top(experiment: Experiment, z: np.ndarray, memorized: np.ndarray) -> None:
    """Prints the most significant pairs of either sign, and how near their pictures are."""
    train, test = experiment.train, experiment.dataset.test
    near = nearness(train.images, test.images)
    for sign, signed in (("helpful", z), ("harmful", -z)):
        beyond = near[signed > BEYOND]
        print(
            f"  {sign} beyond {BEYOND:g} standard errors: {len(beyond)}, of which"
            f" {np.sum(beyond < NEAREST)} are of one of the test image's {NEAREST} nearest training"
            " images; the first: training id (label, memorization), test id (label), z, nearness"
        )
        order = np.argsort(-signed, axis=None)[:8]
        for row, column in zip(*np.unravel_index(order, z.shape), strict=True):
            print(
                f"    {train.ids[row]} ({train.labels[row]}, {memorized[row]:.2f}),"
                f" {test.ids[column]} ({test.labels[column]}), {z[row, column]:.1f},"
                f" {near[row, column] + 1}"
            )


def nearness(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Returns the rank of every training image among those nearest to a test image, from 0."""
    a, b = (images.reshape(len(images), -1) / 255.0 for images in (train, test))
    distances = (a**2).sum(1)[:, None] - 2 * a @ b.T
    return np.argsort(np.argsort(distances, axis=0), axis=0)


def net(scores: Scores, memorized: np.ndarray) -> None:
    """Prints how memorization ranks with the net effect on accuracy, across halves."""
    found = []
    for rest in (0, 1):
        own, other = (scores.of(np.arange(len(scores.masks)) % 2 == r) for r in (rest, 1 - rest))
        accuracy = (own.test > 0).mean(1)
        n_in = own.masks.sum(0)
        effect = accuracy @ own.masks / n_in - accuracy @ ~own.masks / (len(own.masks) - n_in)
        values = estimate(other.masks, other.train, estimator="margin").memorization
        known = np.isfinite(values)
        found.append(rank_correlation(values[known], effect[known]))
    print("  rank correlation of memorization and net effect on test accuracy, by halves:")
    print(f"    {found[0]}\n    {found[1]}")


def detect(run: Path) -> None:
    """Prints the AUROC of detecting flipped labels."""
    experiment, scores = read(run)
    original = data.load("digits").train
    assert np.array_equal(original.ids, experiment.train.ids)
    is_flipped = original.labels != experiment.train.labels
    print(f"{is_flipped.sum()} of {len(is_flipped)} labels are flipped")
    for size in (size for size in SIZES if size <= len(scores.masks)):
        for name, of in (("clean", scores), ("attacked", scores.attacked())):
            part = of.of(np.arange(size))
            masks, right = part.masks, part.train > 0
            for what, rows in (("flipped", is_flipped), ("other", ~is_flipped)):
                seen, results = masks[:, rows], right[:, rows]
                print(
                    f"{size} members, {name}, {what}: right in subset {results[seen].mean():.3f},"
                    f" outside {results[~seen].mean():.3f}"
                )
            count = masks.sum(0)
            inside, outside = (
                np.where(mask, part.train, 0).sum(0) / mask.sum(0) for mask in (masks, ~masks)
            )
            for what, values in (
                ("memorization", estimate(masks, part.train, estimator="margin").memorization),
                ("wrong in subset", 1 - np.where(masks, right, 0).sum(0) / count),
                ("mean margin in subset less outside", inside - outside),
            ):
                known = np.isfinite(values)
                print(f"  {what}: {auroc(values[known], is_flipped[known])}")


def find_copies(run: Path) -> None:
    """Prints how copies show in influence on test images and in memorization."""
    experiment, scores = read(run)
    original, test = data.load("digits").train, experiment.dataset.test
    from_train, from_test = copied(len(original), len(test))
    first = len(original) + TRAIN_COPIES
    planted = np.zeros((len(experiment.train), len(test)), bool)
    planted[first + np.arange(TEST_COPIES), from_test] = True
    print(f"{len(scores.masks)} members; {TEST_COPIES} of {planted.size} pairs are copies")
    for name, of in (("clean", scores), ("attacked", scores.attacked())):
        z = influence(of.masks, of.test)
        copies = z[first + np.arange(TEST_COPIES), from_test]
        above = (z[:, from_test] >= copies).sum(0) - 1
        right = np.array(
            [
                (of.test[~of.masks[:, first + k], column] > 0).mean()
                for k, column in enumerate(from_test)
            ]
        )
        hard = right < 1 - experiment.config.memorization.threshold
        for kind, which in (("all", np.ones_like(hard)), ("atypical", hard)):
            print(
                f"{name}, {kind}: {which.sum()} copies, {np.sum(above[which] == 0)} with the"
                f" highest influence on their test image, {np.sum(copies[which] > SIGNIFICANT)}"
                f" beyond {SIGNIFICANT:g} standard errors"
            )
        print(f"  other pairs beyond {SIGNIFICANT:g}: {np.sum(z[~planted] > SIGNIFICANT)}")
        now = estimate(of.masks, of.train, estimator="margin").memorization
        before = load(PUBLISHED / f"digits_robust_memorization_{name}.npz").memorization
        pairs = np.stack([now[from_train], now[len(original) + np.arange(TRAIN_COPIES)]])
        alone = np.delete(np.arange(len(original)), from_train)
        atypical = before > experiment.config.memorization.threshold
        for kind, rows, estimates in (
            ("with a copy", from_train, pairs.mean(0)),
            ("without a copy in either run", alone, now[alone]),
        ):
            after, earlier = (values[atypical[rows]] for values in (estimates, before[rows]))
            change = after - earlier
            error = change.std(ddof=1) / np.sqrt(len(change))
            print(
                f"  {len(change)} atypical images {kind}: mean memorization {after.mean():.4f}, in"
                f" the published run {earlier.mean():.4f}, change {change.mean():+.4f} +-"
                f" {error:.4f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("compare", "copied", "flipped"))
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    {"compare": compare, "copied": find_copies, "flipped": detect}[options.command](options.run)


if __name__ == "__main__":
    main()
