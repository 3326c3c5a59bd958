"""How many members do estimators of memorization need? A study with known answers.

    export PYTHONPATH=.
    python benchmarks/estimators.py train OUT     # 7,220 members, about 25 minutes on one core
    python benchmarks/estimators.py compare OUT   # table, and docs/results/figures/estimators.svg

is the study on digits, and

    python benchmarks/estimators.py train OUT --config=fashion_mnist_memorization
    python benchmarks/estimators.py compare OUT --config=fashion_mnist_memorization

that on 2,000 images of Fashion-MNIST, with fewer members, because each costs 5.2 s of CPU time:
1,700 in 150 minutes on one core (predicted), or 900 in 78 minutes with the blocks plain, reference
and flipped alone. Its figure is docs/results/figures/estimators_fashion_mnist.svg.

`train` writes blocks of members, each with its subsets, margins and probabilities of the label. The
same command resumes after an interruption. `--blocks` names the blocks to train: two processes with
different ones use two cores (adaptive needs the finished plain).

`compare` estimates memorization from groups of one block and compares it with the plain estimate of
all other members of the same kind, which share no member with the group. From the mean squared
difference it subtracts the variance of that reference, so that errors are those to the truth. It
needs the blocks plain and reference, and shows what the others in the folder allow.
"""

import argparse
import importlib
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from bat_jax import models
from bat_jax.attacks.inner_losses import margin
from bat_jax.data import Split
from bat_jax.data.device import to_unit
from bat_jax.ensemble.members import Ensemble
from bat_jax.memorization import estimate, margins
from bat_jax.memorization.ranking import rank_correlation
from bat_jax.runtime.files import write_npz
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment

RATIO, HALF, PILOT = 0.7, 0.5, 50
NEIGHBOURS = 10
# The most pixels that a member is scored on at once.
PIXELS = 1500 * 8 * 8
FIGURES = Path("docs/results/figures")
Values = tuple[np.ndarray, np.ndarray]


class Study(NamedTuple):
    """The members of a config page that are trained and compared.

    Attributes:
      images: the number of training images.
      test: the number of test images that members are scored on.
      batch_size: of training.
      epochs: epochs after which members are scored; the last one ends training.
      sizes: numbers of members whose estimates are compared.
      blocks: seeds and numbers of the members of each block.
      seconds: CPU time of a member.
      figure: the default path of the figure.
    """

    images: int
    test: int
    batch_size: int
    epochs: tuple[int, ...]
    sizes: tuple[int, ...]
    blocks: dict[str, tuple[int, int]]
    seconds: float
    figure: Path


STUDIES = {
    "digits_memorization": Study(
        images=1348,
        test=449,
        batch_size=32,
        epochs=(8, 12, 16, 20, 24),
        sizes=(50, 100, 250, 500, 1000),
        blocks={
            "plain": (0, 2000),
            "reference": (1, 2000),
            "adaptive": (2, 800),
            "balanced": (3, 500),
            "pairs": (4, 800),
            "half": (6, 800),
            "flipped": (0, 320),
        },
        seconds=0.23,
        figure=FIGURES / "estimators.svg",
    ),
    "fashion_mnist_memorization": Study(
        images=2000,
        test=500,
        batch_size=64,
        epochs=(4, 6, 8, 10, 12),
        sizes=(50, 100, 200, 400),
        blocks={
            "plain": (0, 400),
            "reference": (1, 400),
            "adaptive": (2, 200),
            "balanced": (3, 200),
            "pairs": (4, 200),
            "half": (6, 200),
            "flipped": (0, 100),
        },
        seconds=5.2,
        figure=FIGURES / "estimators_fashion_mnist.svg",
    ),
}


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

        def scored(images: Any, labels: Any) -> Any:
            with jax.default_matmul_precision("highest"):
                logits = logits_of(to_unit(images))
            chosen = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1)[:, 0]
            return jnp.stack([margin(logits, labels), chosen], axis=1)

        count, pixels = len(data.labels), math.prod(data.images.shape[1:3])
        if count * pixels <= PIXELS:
            return scored(data.images, data.labels).T
        size = self._programs.scored_at_once(count, pixels=pixels)
        # The last batch is padded with the last image.
        rows = jnp.minimum(jnp.arange(-(-count // size) * size), count - 1).reshape(-1, size)
        found = jax.lax.map(lambda batch: scored(data.images[batch], data.labels[batch]), rows)
        return found.reshape(-1, 2)[:count].T


def train(
    experiment: Experiment,
    count: int,
    *,
    design: np.ndarray | None,
    epochs: tuple[int, ...],
    folder: Path,
) -> Block:
    """Returns members 0 to `count` - 1, with the subsets of a design or random ones.

    Every round is written to the folder, and not trained again.
    """
    folder.mkdir(exist_ok=True)
    parts = [read(path) for path in sorted(folder.glob("[0-9]*.npz"))]
    start = sum(len(part.masks) for part in parts)
    ensemble = Designed(experiment, members=count)
    if design is not None:
        ensemble.table = jnp.asarray([np.flatnonzero(mask) for mask in design], jnp.int32)
    while start < count:
        members = np.arange(start, min(start + ensemble.round_size, count))
        filled = np.resize(members.astype(np.int32), ensemble.round_size)
        states, scores = ensemble._created(filled), []
        for epoch in range(ensemble.epochs):
            states, _ = ensemble._epoch(states, filled, np.int32(epoch), ensemble._train)
            if epoch + 1 in epochs:
                masks, *found = ensemble._scored(states, filled, ensemble._train, ensemble._test)
                scores.append(np.concatenate(jax.device_get(found), axis=2)[: len(members)])
        both = np.stack(scores, axis=1).astype(np.float16)
        masks = jax.device_get(masks)[: len(members)]
        parts.append(Block(masks, both[:, :, 0], both[:, -1, 1], np.array(epochs)))
        write_npz(folder / f"{start:06d}.npz", parts[-1]._asdict())
        start += len(members)
    *joined, _ = map(np.concatenate, zip(*parts, strict=True))
    return Block(*joined, np.array(epochs))


def config_of(page: str, seed: int = 0) -> ConfigDict:
    """Returns the config of a study's members; all seeds have the same images."""
    study, config = STUDIES[page], importlib.import_module(f"configs.{page}").get_config()
    config.parallel.devices, config.seed = 1, seed
    config.data.update(seed=0, subset=study.images)
    config.train.update(epochs=study.epochs[-1], batch_size=study.batch_size)
    config.memorization.test_images = study.test
    return config


def train_all(page: str, folder: Path, names: Sequence[str]) -> None:
    """Trains the named blocks that a folder lacks."""
    study = STUDIES[page]
    folder.mkdir(parents=True, exist_ok=True)
    for name, (seed, count) in study.blocks.items():
        path = folder / f"{name}.npz"
        if name not in names or path.exists():
            continue
        minutes = count * study.seconds / 60
        print(f"{name}: {count} members, {minutes:.0f} minutes of CPU time predicted", flush=True)
        config = config_of(page, seed)
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
            if not (folder / "plain.npz").exists():
                raise SystemExit("adaptive: needs the block plain; train it first")
            pilot = read(folder / "plain.npz").of(np.arange(PILOT))
            design = adaptive(needs(pilot), count, draws)
        began, used = time.monotonic(), time.process_time()
        block = train(
            experiment,
            count,
            design=design,
            epochs=study.epochs if seed == 0 else study.epochs[-1:],
            folder=folder / name,
        )
        write_npz(path, block._asdict())
        shutil.rmtree(folder / name)
        print(
            f"{name}: {count} members in {time.monotonic() - began:.0f} s,"
            f" {time.process_time() - used:.0f} s of CPU time",
            flush=True,
        )


def read(path: Path) -> Block:
    with np.load(path) as file:
        return Block(*(file[field] for field in Block._fields))


def load(page: str, folder: Path) -> dict[str, Block]:
    """Returns the blocks in a folder."""
    study = STUDIES[page]
    paths = {name: folder / f"{name}.npz" for name in study.blocks}
    blocks = {name: read(path) for name, path in paths.items() if path.exists()}
    for name, block in blocks.items():
        if block.examples != study.images:
            raise SystemExit(
                f"{paths[name]}: members of {block.examples} images; expected {study.images}, those"
                f" of {page}: choose another --config"
            )
    missing = [name for name in ("plain", "reference") if name not in blocks]
    if missing:
        raise SystemExit(f"{folder}: has no {missing[0]}.npz; train this block first")
    return blocks


def flipped(experiment: Experiment) -> tuple[Experiment, np.ndarray]:
    """Returns an experiment with 5 % of its training labels flipped, and which they are."""
    import dataclasses

    draws, split = np.random.default_rng(0), experiment.train
    classes = experiment.dataset.num_classes
    rows = draws.choice(len(split), round(0.05 * len(split)), replace=False)
    labels = split.labels.copy()
    labels[rows] = (labels[rows] + draws.integers(1, classes, len(rows))) % classes
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


def nearest(split: Split) -> np.ndarray:
    """Returns the rows of the images of the same class that are nearest to each image."""
    pixels = np.asarray(split.images).reshape(len(split), -1) / 255.0
    found = np.empty((len(split), NEIGHBOURS), np.int64)
    for row in range(len(split)):
        distances = np.sum((pixels - pixels[row]) ** 2, axis=1)
        distances[(split.labels != split.labels[row]) | (np.arange(len(split)) == row)] = np.inf
        found[row] = np.argsort(distances)[:NEIGHBOURS]
    return found


def controlled(block: Block, near: np.ndarray) -> Values:
    """0/1 scores with the margins on the nearest images of the class as a control variate.

    q_out = mean_out(c) + b (mean_all(x) - mean_out(x)), with b fitted to the members without i.
    """
    values, variances = np.empty(block.examples), np.empty(block.examples)
    scores = block.final
    for mask in (block.masks, ~block.masks):  # Without the effect of an example on itself.
        count = mask.sum(0)
        scores -= np.where(mask, np.where(mask, scores, 0).sum(0) / count, 0)
    for row in range(block.examples):
        x = scores[:, near[row]].mean(1)
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


def compare(page: str, folder: Path, figure: Path) -> None:
    study, blocks = STUDIES[page], load(page, folder)
    pool, other = blocks["plain"], blocks["reference"]
    experiment = build(config_of(page))
    near = nearest(experiment.train)

    def rest(outside: np.ndarray) -> list[Block]:
        return [pool.of(outside), other]

    def all_plain(outside: np.ndarray) -> list[Block]:
        return [pool, other]

    def of(name: str) -> Callable[[np.ndarray], list[Block]]:
        return lambda outside: [blocks[name]]

    whole = study.epochs[-1]
    cases: dict[str, tuple[Callable[[Block], Values], str, Any]] = {
        "plain": (plain, "plain", rest),
        "margin": (of_margins, "plain", rest),
        "normal fits alone": (normal, "plain", rest),
        "control variate": (lambda block: controlled(block, near), "plain", rest),
        "three checkpoints averaged": (of_checkpoints, "plain", rest),
        f"stopped after {study.epochs[2]} of {whole} epochs": (
            lambda block: plain(block, 2), "plain", rest
        ),
        f"stopped after {study.epochs[1]} of {whole} epochs": (
            lambda block: plain(block, 1), "plain", rest
        ),
        "probability": (of_probabilities, "plain", rest),
        "balanced masks": (plain, "balanced", all_plain),
        "adaptive masks": (plain, "adaptive", all_plain),
    }  # fmt: skip
    if {"half", "pairs"} <= set(blocks):
        cases |= {
            "ratio 0.5": (plain, "half", of("pairs")),
            "ratio 0.5, complementary pairs": (plain, "pairs", of("half")),
            "ratio 0.5, margin": (of_margins, "half", of("pairs")),
        }
    cases["ratio 0.5 as an estimate of 0.7"] = (plain, "half", all_plain)
    found: dict[str, dict[int, Row]] = {}
    print("| estimator | members | MSE x 1e5 | of plain | var z | rank, all | not 0 | AUROC |")
    for name, (estimator, block_name, others) in cases.items():
        if block_name not in blocks:
            continue
        block, found[name] = blocks[block_name], {}
        for size in study.sizes:
            if size > len(block.masks) or (name == "control variate" and size > 250):
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
    both = len(pool.masks) + len(other.masks)
    print(f"two halves of {both:,} members, where the second is not 0: {ceiling}")
    print(f"over all examples: {rank_correlation(first, second)}")
    if "adaptive" in blocks:
        report_bias(blocks["adaptive"], [pool, other])
    if "flipped" in blocks:
        report_flipped(blocks["flipped"], flipped(experiment)[1])
    draw(found, ceiling.value, figure, study=study, members=both)


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


def report_flipped(block: Block, is_flipped: np.ndarray) -> None:
    for size in (size for size in (40, 50, 80) if size <= len(block.masks)):
        for name, estimator in (("plain", plain), ("margin", of_margins)):
            found = []
            for start in range(0, len(block.masks) - size + 1, size):
                value, _ = estimator(block.of(np.arange(start, start + size)))
                known = np.isfinite(value)
                found.append(roc_auc_score(is_flipped[known], value[known]))
            print(f"flipped: {size} members, {name}: {np.mean(found):.4f}, least {min(found):.4f}")


def draw(
    found: dict[str, dict[int, Row]], ceiling: float, path: Path, *, study: Study, members: int
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "bat_jax", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    colors = plt.get_cmap("tab10").colors
    hidden = "ratio", "adaptive", f"stopped after {study.epochs[1]} "
    shown = [name for name in found if not name.startswith(hidden)]
    for number, name in enumerate(shown):
        style = {"color": colors[number], "marker": "o", "markersize": 3, "label": name}
        style["linewidth"] = 2 if name in ("plain", "margin") else 1
        sizes = list(found[name])
        if name != "probability":
            left.plot(sizes, [row.error for row in found[name].values()], **style)
        right.plot(sizes, [row.among_memorized for row in found[name].values()], **style)
    left.axhline(found["plain"][max(found["plain"])].error, color="#888888", linestyle=":")
    left.set(xscale="log", yscale="log", ylabel="mean squared error of memorization")
    right.axhline(
        ceiling, color="#888888", linestyle=":", label=f"two halves of {members:,} members"
    )
    right.set(xscale="log", ylabel="rank correlation with all others, where not 0")
    for panel in (left, right):
        panel.set_xlabel("members")
        panel.set_xticks(study.sizes, [f"{size:,}" for size in study.sizes], minor=False)
        panel.minorticks_off()
        panel.grid(color="#dddddd")
    right.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", choices=tuple(STUDIES), default="digits_memorization")
    parser.add_argument("--blocks", nargs="+", help="blocks to train; by default all")
    parser.add_argument("--out", type=Path, help="the figure of compare")
    options = parser.parse_args()
    study = STUDIES[options.config]
    blocks = options.blocks or tuple(study.blocks)
    unknown = [name for name in blocks if name not in study.blocks]
    if unknown:
        parser.error(f"--blocks: {unknown[0]}; expected some of {', '.join(study.blocks)}")
    if options.action == "train":
        train_all(options.config, options.folder, blocks)
    else:
        compare(options.config, options.folder, options.out or study.figure)


if __name__ == "__main__":
    main()
