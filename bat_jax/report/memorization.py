"""The report of a memorization run: which images are memorized, and how reliable that is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bat_jax.ensemble.estimation import estimated, opened
from bat_jax.errors import UserError
from bat_jax.memorization import Estimates
from bat_jax.memorization import estimates as estimate_files
from bat_jax.memorization.aggregates import Halves, strongest_pairs
from bat_jax.memorization.results import ROBUST_FILE, read_results
from bat_jax.report.contrast import contrasted
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Page, Section, Table, write
from bat_jax.report.pictures import grid, most_memorized
from bat_jax.report.style import Chart, logarithmic, scatter
from bat_jax.runtime.storage import AnyPath
from bat_jax.training.experiment import Experiment
from bat_jax.training.saved import read_run

_PAIRS_SHOWN = 8
# By the score of the members on an image.
_MEANINGS = {
    "correct": "how much more often models classify it correctly",
    "probability": "how much more probable its label is to models, on average,",
}
_INPUTS = {"clean": "clean", "adversarial": "adversarial", "both": "clean and on adversarial"}


def report(folder: AnyPath, output: AnyPath) -> AnyPath:
    """Writes `report.html` and `figures/` of a memorization run; returns the page's path.

    Raises:
      UserError: the run is not finished, or its data are missing or have changed.
    """
    results = read_results(folder / "results.json")
    experiment = read_run(
        folder,
        ConfigDict(
            {
                "memorization": {
                    "estimates": str(folder / "memorization.npz"),
                    "members": results["members"],
                }
            }
        ),
    )
    store = opened(experiment, folder)
    if len(store.missing(results["members"])):
        raise UserError(
            f"{folder}: results.json counts {results['members']:,} members, of which"
            f" {len(store.missing(results['members'])):,} are missing in {folder / 'members'};"
            " run its command to the end"
        )
    _, halves = estimated(experiment, store, results["members"], influence="none")
    robust = estimate_files.load(folder / ROBUST_FILE) if "robust" in results else None
    return write(_page(experiment, halves[results["members"]], results, robust), output)


def _page(
    experiment: Experiment, halves: Halves, results: Mapping[str, Any], robust: Estimates | None
) -> Page:
    train, config, estimates = results["train"], experiment.config, experiment.estimates
    assert estimates is not None  # `report` sets them.
    is_compared = "rank_correlation" in results.get("split_half", {})
    summary = (
        f"{train['atypical']:,} of {train['examples']:,} training images are atypical: their"
        f" memorization, estimated from {results['members']:,} models, exceeds"
        f" {results['threshold']:g}."
    )
    by_members = results.get("split_half_by_members", [])
    agreement = [_split_half(halves, results)] if is_compared else []
    if len(by_members) > 1:
        agreement.append(_by_members(by_members))
    sections = [
        Section(
            "How much is memorized",
            (_definition(config.memorization.statistic),),
            (_classes(results), _sweep(results)),
            _histogram(estimates, results["threshold"]),
        ),
        *([] if robust is None else [contrasted(experiment, robust, results)]),
        Section(
            "Reliability", _reliability(results), _by_members_table(by_members), tuple(agreement)
        ),
        Section(
            "Pictures", charts=tuple(most_memorized(experiment) + _pairs(experiment, estimates))
        ),
    ]
    train = config.train
    length = f"{train.steps} steps" if train.steps else f"{train.epochs} epochs"
    return Page(
        title=f"Memorization on {experiment.dataset.name}",
        summary=summary,
        facts={
            "Members": f"{results['members']:,}, each trained on {config.memorization.ratio:g} of"
            f" the images, {config.objective.name}",
            "Scored by": f"{config.memorization.statistic}, on"
            f" {_INPUTS[config.memorization.inputs]} images"
            + (", estimated from margins" if config.memorization.estimator == "margin" else ""),
            "Model": config.model.name,
            "Training": f"{length}, batch {config.train.batch_size}, seed {config.seed}",
        },
        sections=tuple(section for section in sections if section.charts or section.tables),
        details={},
    )


def _definition(statistic: str) -> str:
    """Returns what memorization is, by the score of the members on an image."""
    return (
        f"The memorization of a training image is {_MEANINGS[statistic]} if it was in their"
        " training subset than if it was not. A training image is atypical if its memorization"
        " exceeds the threshold; a test image is atypical if the influence of an atypical training"
        " image on it does."
    )


def _histogram(estimates: Estimates, threshold: float) -> tuple[Chart, ...]:
    """Returns one chart, or none if no image has an estimate."""
    known = estimates.memorization[np.isfinite(estimates.memorization)]
    if not len(known):
        return ()
    above = int(np.sum(known > threshold))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.hist(known, bins=45, range=(min(-0.1, known.min()), 1.0), color="C0")
        axes.axvline(threshold, color="C3", linestyle="--", label=f"threshold {threshold:g}")
        axes.set(xlabel="memorization", ylabel="training images")
        logarithmic(axes)
        axes.legend()

    chart = Chart(
        "memorization",
        "Memorization of the training images",
        f"Histogram of memorization of {len(known)} training images; {above} lie above the"
        f" threshold {threshold:g}.",
        f"n = {len(known):,}, of which {above:,} lie above the threshold; counts are on a"
        " logarithmic axis.",
        draw,
    )
    return (chart,)


def _split_half(halves: Halves, results: Mapping[str, Any]) -> Chart:
    first, second = halves
    known = np.isfinite(first) & np.isfinite(second)
    correlation = results["split_half"]["rank_correlation"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([-0.1, 1], [-0.1, 1], color="C6", linestyle=":", linewidth=1)
        scatter(axes, first[known], second[known])
        axes.set(
            xlabel="memorization, even members", ylabel="memorization, odd members", aspect="equal"
        )

    return Chart(
        "split_half",
        "Two halves of the ensemble",
        "Scatter plot of memorization estimated from one half of the models and the other; rank"
        f" correlation {correlation:.3f}.",
        f"Rank correlation {correlation:.3f} over {int(known.sum()):,} training images.",
        draw,
        height=3.8,
    )


def _by_members_table(rows: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    if len(rows) < 2:
        return ()
    cells = []
    for row in rows:
        low, high = row["interval"]
        found = f"{row['rank_correlation']:.3f}", f"{low:.3f} to {high:.3f}"
        cells.append((f"{row['members']:,}", f"{row['n']:,}", *found))
    table = Table(
        "Rank correlation between memorization estimated from the even and from the odd members,"
        " among the first members; 95 % bootstrap intervals over images.",
        ("members", "n", "rank correlation", "95 % interval"),
        tuple(cells),
    )
    return (table,)


def _by_members(rows: Sequence[Mapping[str, Any]]) -> Chart:
    members = [row["members"] for row in rows]
    values = np.asarray([row["rank_correlation"] for row in rows])
    low, high = np.asarray([row["interval"] for row in rows]).T

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        # Resamples have more ties than the images, so an interval may exclude its value.
        bars = np.maximum([values - low, high - values], 0)
        axes.errorbar(members, values, yerr=bars, color="C0", marker="o", capsize=2)
        axes.set(xlabel="members", ylabel="rank correlation of halves", xscale="log")
        axes.set_ylim(min(0, low.min()), 1)
        axes.set_xticks(members, [f"{number:,}" for number in members])
        axes.minorticks_off()

    numbers = ", ".join(f"{m:,}: {v:.3f}" for m, v in zip(members, values, strict=True))
    return Chart(
        "split_half_by_members",
        "Two halves, by number of members",
        f"Line chart of the rank correlation of two halves of the ensemble by members. {numbers}.",
        "Each half has half of the members. Bars are 95 % bootstrap intervals over images.",
        draw,
    )


def _reliability(results: Mapping[str, Any]) -> tuple[str, ...]:
    text = []
    if "mean_standard_error" in results:
        text.append(
            f"The mean standard error of memorization is {results['mean_standard_error']:.4f}."
        )
    agreement = results.get("split_half", {})
    if "variance_of_z" in agreement:
        text.append(
            "The difference of the two halves, divided by its standard error, has variance"
            f" {agreement['variance_of_z']:.2f} (n = {agreement['n']:,} images with a nonzero"
            " standard error); correct standard errors give 1."
        )
    return tuple(text)


def _classes(results: Mapping[str, Any]) -> Table:
    parts = [part for part in ("train", "test") if part in results]
    names = list(results["train"]["atypical_by_class"])
    rows = []
    for name in names:
        counts = [results[part]["atypical_by_class"][name] for part in parts]
        rows.append((name, *(f"{c['atypical']:,} of {c['examples']:,}" for c in counts)))
    header = ("class", *({"train": "training", "test": "test"}[part] for part in parts))
    return Table("Atypical images by class.", header, tuple(rows))


def _sweep(results: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            f"{row['threshold']:g}",
            f"{row['train_atypical']:,}",
            f"{row['test_atypical']:,}" if "test_atypical" in row else "not known",
            f"{row['test_by_chance']:,}" if "test_by_chance" in row else "not known",
        )
        for row in results["sweep"]
    )
    return Table(
        "Atypical images by threshold. By chance: the number of test images with an influence below"
        " minus the threshold; if no image harms another, noise alone puts roughly as many above"
        " it.",
        ("threshold", "training", "test", "test, by chance"),
        rows,
    )


def _pairs(experiment: Experiment, estimates: Estimates) -> list[Chart]:
    """Returns the pairs of training and test images with the highest influence."""
    pairs = strongest_pairs(estimates, experiment.config.memorization.threshold, _PAIRS_SHOWN)
    if not pairs:
        return []
    train, test = experiment.train, experiment.dataset.test
    names = experiment.dataset.class_names
    images, texts = [], []
    for row, column, influence in pairs:
        images += [train.images[row], test.images[column]]
        texts += [
            f"train: {names[train.labels[row]]}\nmem {estimates.memorization[row]:.2f}",
            f"test: {names[test.labels[column]]}\ninfl {influence:.2f}",
        ]
    return [
        grid(
            "pairs",
            "Memorized training images and the test images they influence",
            np.stack(images),
            texts,
            "Side by side: a training image above the threshold, and the test image on which"
            " training with it raises accuracy the most. The strongest"
            f" {len(pairs)} pairs, each training image once.",
        )
    ]
