"""How many members do estimators of memorization need? A study on digits with known answers.

    export PYTHONPATH=.
    python benchmarks/estimators.py train OUT     # 7,220 members, about 25 minutes on one core
    python benchmarks/estimators.py compare OUT   # table, and docs/results/figures/estimators.svg

`train` writes blocks of members, each with its subsets, margins and probabilities of the label.
`compare` estimates memorization from groups of one block and compares it with the plain estimate of
all other members of the same kind, which share no member with the group. From the mean squared
difference it subtracts the variance of that reference, so that errors are those to the truth.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from bat_jax import data, models
from bat_jax.attacks.inner_losses import margin
from bat_jax.data.device import to_unit
from bat_jax.ensemble.members import Ensemble
from bat_jax.memorization import estimate, margins
from bat_jax.memorization.ranking import rank_correlation
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment
from configs import digits_memorization

RATIO, HALF, PILOT = 0.7, 0.5, 50
SIZES = (50, 100, 250, 500, 1000)
# Epochs after which members are scored; the last one ends training.
EPOCHS = (8, 12, 16, 20, 24)
# Seeds and numbers of the members of each block.
BLOCKS = {
    "plain": (0, 2000),
    "reference": (1, 2000),
    "adaptive": (2, 800),
    "balanced": (3, 500),
    "pairs": (4, 800),
    "half": (6, 800),
    "flipped": (0, 320),
}
Values = tuple[np.ndarray, np.ndarray]


class Block(NamedTuple):
    """Some members.

    Attributes:
      masks: whether the subset of a member has the training example.
      margins: margins on the training and test images after each of `epochs`.
      probabilities: of the label, at the end.
      epochs: when the members were scored.
    """

    masks: np.ndarray
    margins: np.ndarray
    probabilities: np.ndarray
    epochs: np.ndarray

    @property
    def examples(self) -> int:
        return self.masks.shape[1]

    @property
    def final(self) -> np.ndarray:
        """The margins on the training images at the end, in float64."""
        return self.margins[:, -1, : self.examples].astype(np.float64)

    def of(self, rows: np.ndarray) -> "Block":
        return Block(self.masks[rows], self.margins[rows], self.probabilities[rows], self.epochs)


class Designed(Ensemble):
    """Members with subsets from a table, which are scored by their logits."""

    table: jax.Array | None = None

    def _rows(self, member: Any) -> Any:
        return super()._rows(member) if self.table is None else self.table[member]

    def _classify(self, variables: Any, data: Any, key: Any, inputs: str) -> Any:
        logits_of = models.logits_fn(self._experiment.evaluated(), variables)
        with jax.default_matmul_precision("highest"):
            logits = logits_of(to_unit(data.images))
        chosen = jnp.take_along_axis(jax.nn.softmax(logits), data.labels[:, None], 1)[:, 0]
        return jnp.stack([margin(logits, data.labels), chosen])


def train(
    experiment: Experiment, count: int, *, design: np.ndarray | None, epochs: tuple[int, ...]
) -> Block:
    """Returns members 0 to `count` - 1, with the subsets of a design or random ones."""
    ensemble = Designed(experiment, members=count)
    if design is not None:
        ensemble.table = jnp.asarray([np.flatnonzero(mask) for mask in design], jnp.int32)
    parts = []
    for start in range(0, count, ensemble.round_size):
        members = np.arange(start, min(start + ensemble.round_size, count))
        filled = np.resize(members.astype(np.int32), ensemble.round_size)
        states, scores = ensemble._created(filled), []
        for epoch in range(ensemble.epochs):
            states, _ = ensemble._epoch(states, filled, np.int32(epoch), ensemble._train)
            if epoch + 1 in epochs:
                masks, *found = ensemble._scored(states, filled, ensemble._train, ensemble._test)
                scores.append(np.concatenate(jax.device_get(found), axis=2)[: len(members)])
        both = np.stack(scores, axis=1).astype(np.float16)
        parts.append((jax.device_get(masks)[: len(members)], both[:, :, 0], both[:, -1, 1]))
    return Block(*map(np.concatenate, zip(*parts, strict=True)), np.array(epochs))


def train_all(folder: Path) -> None:
    """Trains the blocks that a folder lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (seed, count) in BLOCKS.items():
        path = folder / f"{name}.npz"
        if path.exists():
            continue
        config = digits_memorization.get_config()
        config.parallel.devices, config.seed = 1, seed
        config.memorization.ratio = HALF if name in ("pairs", "half") else RATIO
        experiment = build(config)
        if name == "flipped":
            experiment, _ = flipped(experiment)
        design, examples = None, len(experiment.train)
        draws = np.random.default_rng(seed)
        if name == "balanced":
            design = balanced(examples, count, draws)
        elif name == "pairs":
            design = complementary(examples, count, draws)
        elif name == "adaptive":
            pilot = load(folder, "plain").of(np.arange(PILOT))
            design = adaptive(needs(pilot), count, draws)
        began = time.monotonic()
        block = train(experiment, count, design=design, epochs=EPOCHS if seed == 0 else EPOCHS[-1:])
        np.savez(path, **block._asdict())
        print(f"{name}: {count} members in {time.monotonic() - began:.0f} s", flush=True)


def load(folder: Path, name: str) -> Block:
    with np.load(folder / f"{name}.npz") as file:
        return Block(*(file[field] for field in Block._fields))


def flipped(experiment: Experiment) -> tuple[Experiment, np.ndarray]:
    """Returns an experiment with 5 % of its training labels flipped, and which they are."""
    import dataclasses

    draws, split = np.random.default_rng(0), experiment.train
    rows = draws.choice(len(split), round(0.05 * len(split)), replace=False)
    labels = split.labels.copy()
    labels[rows] = (labels[rows] + draws.integers(1, 10, len(rows))) % 10
    changed = dataclasses.replace(split, labels=labels.astype(np.int32))
    return dataclasses.replace(experiment, train=changed), labels != split.labels


def balanced(examples: int, count: int, draws: np.random.Generator) -> np.ndarray:
    """Returns masks of which consecutive ones leave out every example equally often, to one."""
    size, queue, masks = examples - round(RATIO * examples), [], np.ones((count, examples), bool)
    for mask in masks:
        out: list[int] = []
        while len(out) < size:
            queue = queue or list(draws.permutation(examples))
            place = next((k for k, row in enumerate(queue) if row not in out), None)
            if place is None:
                queue += list(draws.permutation(examples))
            else:
                out.append(queue.pop(place))
        mask[out] = False
    return masks


def complementary(examples: int, count: int, draws: np.random.Generator) -> np.ndarray:
    """Returns masks in pairs: a member trains on what the one before it leaves out."""
    masks = np.zeros((count, examples), bool)
    for first in range(0, count, 2):
        masks[first, draws.permutation(examples)[: examples // 2]] = True
        masks[first + 1] = ~masks[first]
    return masks


def needs(pilot: Block) -> np.ndarray:
    """Returns the expected spread of every example's 0/1 score, from few members without it."""
    everyone = sides(pilot)[1]
    known = np.isfinite(everyone.mean)
    outside = margins.Moments(*(values[known] for values in everyone))
    spread, degrees = margins.moderated(outside)
    zeta = outside.mean / np.sqrt(spread)
    error = np.sqrt(1 / outside.models + zeta**2 / (2 * degrees))
    q = ndtr(zeta + error * np.random.default_rng(0).standard_normal((200, 1)))
    found = np.full(len(known), 0.5)  # Examples that too few members leave out are uncertain.
    found[known] = np.sqrt(np.mean(q * (1 - q), axis=0))
    return found


def adaptive(
    need: np.ndarray, count: int, draws: np.random.Generator, *, low: float = 0.1, high: float = 0.8
) -> np.ndarray:
    """Returns masks that leave out examples in proportion to their need, within bounds."""
    size = len(need) - round(RATIO * len(need))
    factors = np.geomspace(1e-3, 1e6, 4000)
    expected = [np.clip(factor * need, low, high).sum() for factor in factors]
    chance = np.clip(factors[np.searchsorted(expected, size)] * need, low, high)
    masks = np.ones((count, len(need)), bool)
    for mask in masks:  # Systematic sampling: a fixed size, and these inclusion probabilities.
        order = draws.permutation(len(need))
        ends = np.cumsum(chance[order]) * size / chance.sum()
        places = np.searchsorted(ends, draws.random() + np.arange(size))
        mask[order[np.minimum(places, len(need) - 1)]] = False
    return masks


def sides(block: Block) -> tuple[margins.Moments, margins.Moments]:
    """Returns the moments of the members with every example, and of those without it."""
    scores = block.final

    def moments(mask: np.ndarray) -> margins.Moments:
        sums = np.where(mask, scores, 0).sum(0), (mask * scores**2).sum(0)
        return margins.moments(mask.sum(0), *sums)

    return moments(block.masks), moments(~block.masks)


def plain(block: Block, epoch: int = -1) -> Values:
    """The difference of mean correctness."""
    right = block.margins[:, epoch, : block.examples] > 0
    found = estimate(block.masks, right)
    return found.memorization, found.memorization_se


def of_margins(block: Block) -> Values:
    found = estimate(block.masks, block.final, estimator="margin")
    return found.memorization, found.memorization_se


def normal(block: Block) -> Values:
    """Normal fits alone, by the delta method."""
    return margins.difference_of_normals(*sides(block))


def of_checkpoints(block: Block) -> Values:
    """Mean correctness over the last three checkpoints of a member."""
    right = (block.margins[:, -3:, : block.examples] > 0).mean(1)
    found = estimate(block.masks, right)
    return found.memorization, found.memorization_se


def of_probabilities(block: Block) -> Values:
    """The difference of mean probabilities: another quantity, comparable by rank alone."""
    found = estimate(block.masks, block.probabilities[:, : block.examples].astype(np.float64))
    return found.memorization, found.memorization_se


def controlled(block: Block) -> Values:
    """0/1 scores with the margins on the ten nearest images of the class as a control variate.

    q_out = mean_out(c) + b (mean_all(x) - mean_out(x)), with b fitted to the members without i.
    """
    split = data.load("digits").train
    pixels = split.images.reshape(len(split), -1) / 255.0
    values, variances = np.empty(block.examples), np.empty(block.examples)
    scores = block.final
    for mask in (block.masks, ~block.masks):  # Without the effect of an example on itself.
        count = mask.sum(0)
        scores -= np.where(mask, np.where(mask, scores, 0).sum(0) / count, 0)
    for row in range(block.examples):
        distances = np.sum((pixels - pixels[row]) ** 2, axis=1)
        distances[(split.labels != split.labels[row]) | (np.arange(len(split)) == row)] = np.inf
        x = scores[:, np.argsort(distances)[:10]].mean(1)
        out = ~block.masks[:, row]
        c, own = (block.final[out, row] > 0).astype(float), x[out] - x[out].mean()
        b = own @ c / (own @ own)
        values[row] = c.mean() + b * (x.mean() - x[out].mean())
        variances[row] = np.var(c - b * x[out]) / out.sum() + b**2 * x.var() / len(x)
    q_in = np.where(block.masks, block.final > 0, 0).sum(0) / block.masks.sum(0)
    return q_in - values, np.sqrt(variances)


class Row(NamedTuple):
    """How far estimates from groups of some members are from the truth, averaged over groups.

    Attributes:
      error: mean squared error.
      variance_of_z: of the error over its standard error, where that is above 0.001.
      rank_correlation: with the reference, over all examples, three quarters of which tie at 0.
      among_memorized: the same over the examples that are not 0 in the reference.
      detection: AUROC of finding the examples that are not 0 in the reference.
    """

    error: float
    variance_of_z: float
    rank_correlation: float
    among_memorized: float
    detection: float


def compared(estimator: Callable[[Block], Values], block: Block, size: int, others: Any) -> Row:
    """Compares groups of `size` members with all members outside the group."""
    rows = []
    for start in range(0, len(block.masks) - size + 1, size):
        group = np.zeros(len(block.masks), bool)
        group[start : start + size] = True
        truth, spread = reference(others(~group))
        value, error = estimator(block.of(group))
        known = np.isfinite(value)  # Margins of fewer than four members give no estimate.
        value, error, truth, spread = (found[known] for found in (value, error, truth, spread))
        squared = (value - truth) ** 2
        usable = (error > 1e-3) & (spread > 0)
        rows.append(
            (
                np.mean(squared) - np.mean(spread**2),
                np.mean(squared[usable] / (error**2 + spread**2)[usable]),
                rank_of(value, truth),
                rank_of(value[truth != 0], truth[truth != 0]),
                roc_auc_score(truth != 0, value),
            )
        )
    return Row(*np.mean(rows, axis=0))


def reference(blocks: list[Block]) -> Values:
    masks = np.concatenate([block.masks for block in blocks])
    found = estimate(masks, np.concatenate([block.final > 0 for block in blocks]))
    return found.memorization, found.memorization_se


def rank_of(first: np.ndarray, second: np.ndarray) -> float:
    ranks = [np.unique(values, return_inverse=True)[1] for values in (first, second)]
    middles = [(np.cumsum(np.bincount(r)) - np.bincount(r) / 2)[r] for r in ranks]
    return float(np.corrcoef(*middles)[0, 1])


def compare(folder: Path, figure: Path) -> None:
    blocks = {name: load(folder, name) for name in BLOCKS}
    pool, other = blocks["plain"], blocks["reference"]

    def rest(outside: np.ndarray) -> list[Block]:
        return [pool.of(outside), other]

    def all_plain(outside: np.ndarray) -> list[Block]:
        return [pool, other]

    cases: dict[str, tuple[Callable[[Block], Values], Block, Any]] = {
        "plain": (plain, pool, rest),
        "margin": (of_margins, pool, rest),
        "normal fits alone": (normal, pool, rest),
        "control variate": (controlled, pool, rest),
        "three checkpoints averaged": (of_checkpoints, pool, rest),
        "stopped after 16 of 24 epochs": (lambda block: plain(block, 2), pool, rest),
        "stopped after 12 of 24 epochs": (lambda block: plain(block, 1), pool, rest),
        "probability": (of_probabilities, pool, rest),
        "balanced masks": (plain, blocks["balanced"], all_plain),
        "adaptive masks": (plain, blocks["adaptive"], all_plain),
        "ratio 0.5": (plain, blocks["half"], lambda outside: [blocks["pairs"]]),
        "ratio 0.5, complementary pairs": (
            plain, blocks["pairs"], lambda outside: [blocks["half"]]
        ),
        "ratio 0.5, margin": (of_margins, blocks["half"], lambda outside: [blocks["pairs"]]),
        "ratio 0.5 as an estimate of 0.7": (plain, blocks["half"], all_plain),
    }  # fmt: skip
    found: dict[str, dict[int, Row]] = {}
    print("| estimator | members | MSE x 1e5 | of plain | var z | rank, all | not 0 | AUROC |")
    for name, (estimator, block, others) in cases.items():
        found[name] = {}
        for size in SIZES:
            if size > len(block.masks) or (estimator is controlled and size > 250):
                continue
            row = found[name][size] = compared(estimator, block, size, others)
            ratio = row.error / found["plain"][size].error
            print(
                f"| {name} | {size:,} | {row.error * 1e5:.1f} | {ratio:.2f} |"
                f" {row.variance_of_z:.2f} | {row.rank_correlation:.3f} |"
                f" {row.among_memorized:.3f} | {row.detection:.3f} |",
                flush=True,
            )
    first, second = reference([pool])[0], reference([other])[0]
    ceiling = rank_correlation(first[second != 0], second[second != 0])
    print(f"two halves of 4,000 members, where the second is not 0: {ceiling}")
    print(f"over all examples: {rank_correlation(first, second)}")
    report_bias(blocks["adaptive"], [pool, other])
    report_flipped(blocks["flipped"])
    draw(found, ceiling.value, figure)


def report_bias(adaptive: Block, others: list[Block]) -> None:
    """Prints how leaving out hard examples together changes how often others are correct."""
    plain_out = 1 - reference(others)[0]
    change = 1 - reference([adaptive])[0] - plain_out
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 0.9), (0.9, 0.98)):
        rows = (plain_out >= low) & (plain_out < high)
        print(
            f"adaptive: {rows.sum()} examples with q_out from {low} to {high}:"
            f" q_out changes by {change[rows].mean():+.3f}"
        )


def report_flipped(block: Block) -> None:
    config = digits_memorization.get_config()
    config.parallel.devices = 1
    _, is_flipped = flipped(build(config))
    for size in (40, 50, 80):
        for name, estimator in (("plain", plain), ("margin", of_margins)):
            found = []
            for start in range(0, len(block.masks) - size + 1, size):
                value, _ = estimator(block.of(np.arange(start, start + size)))
                known = np.isfinite(value)
                found.append(roc_auc_score(is_flipped[known], value[known]))
            print(f"flipped: {size} members, {name}: {np.mean(found):.4f}, least {min(found):.4f}")


def draw(found: dict[str, dict[int, Row]], ceiling: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "bat_jax", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    colors = plt.get_cmap("tab10").colors
    shown = [
        name for name in found if not name.startswith(("ratio", "adaptive", "stopped after 12"))
    ]
    for number, name in enumerate(shown):
        style = {"color": colors[number], "marker": "o", "markersize": 3, "label": name}
        style["linewidth"] = 2 if name in ("plain", "margin") else 1
        sizes = list(found[name])
        if name != "probability":
            left.plot(sizes, [row.error for row in found[name].values()], **style)
        right.plot(sizes, [row.among_memorized for row in found[name].values()], **style)
    left.axhline(found["plain"][1000].error, color="#888888", linestyle=":")
    left.set(xscale="log", yscale="log", ylabel="mean squared error of memorization")
    right.axhline(ceiling, color="#888888", linestyle=":", label="two halves of 4,000 members")
    right.set(xscale="log", ylabel="rank correlation with all others, where not 0")
    for panel in (left, right):
        panel.set_xlabel("members")
        panel.set_xticks(SIZES, [f"{size:,}" for size in SIZES], minor=False)
        panel.minorticks_off()
        panel.grid(color="#dddddd")
    right.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results/figures/estimators.svg"))
    options = parser.parse_args()
    if options.action == "train":
        train_all(options.folder)
    else:
        compare(options.folder, options.out)


if __name__ == "__main__":
    main()
