"""The section of a report that compares memorization on clean and on attacked images."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bat_jax.memorization import Estimates
from bat_jax.memorization.contrast import SIGNIFICANT
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Section, Table
from bat_jax.report.pictures import grid
from bat_jax.report.style import Chart, scatter
from bat_jax.training.experiment import Experiment

_PAIRS_SHOWN = 8
_WORDS = {"clean": "clean", "robust": "attacked"}

# By the score of the members on an attacked image.
_MEANINGS = {
    "correct": "how much more often models withstand the attack on a training image",
    "probability": "how much more probable the label of an attacked training image is to models",
}


def contrasted(experiment: Experiment, robust: Estimates, results: Mapping[str, Any]) -> Section:
    """Returns the section on attacked images beside clean ones.

    Args:
      experiment: with the estimates from clean images.
      robust: the estimates from attacked images.
      results: the content of results.json.
    """
    clean, compared = experiment.estimates, results["clean_and_robust"]
    assert clean is not None
    text = [
        "The members were scored on clean images, which the rest of this page is about, and under"
        f" PGD-{experiment.config.evaluation.num_steps}. Memorization under attack is"
        f" {_MEANINGS[experiment.config.memorization.statistic]} if they were trained on it."
    ]
    if "rank_correlation" in compared:
        found = compared["rank_correlation"]
        low, high = found["interval"]
        text.append(
            "Estimated from different halves of the members, both have rank correlation"
            f" {found['value']:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {found['n']:,}); if"
            f" they ranked images alike, it would be {found['ceiling']:.3f}."
        )
    tables = [_overview({"clean": results, "robust": results["robust"]}, clean, robust)]
    if "influence" in compared:
        tables.append(_influences(compared["influence"]))
    if compared["exchange"]:
        tables.append(_exchanges(compared["exchange"]))
    charts = (_scatter(clean, robust), *_harmful(experiment, robust))
    return Section("Clean and attacked images", tuple(text), tuple(tables), charts)


def _overview(
    summaries: Mapping[str, Mapping[str, Any]], clean: Estimates, robust: Estimates
) -> Table:
    rows = []
    for name, estimates in (("clean", clean), ("robust", robust)):
        summary, mean = summaries[name], np.nanmean(estimates.memorization)
        halves = summary.get("split_half", {}).get("rank_correlation")
        rows.append(
            (
                _WORDS[name],
                f"{mean:.4f}",
                f"{summary['train']['atypical']:,} of {summary['train']['examples']:,}",
                "not known" if halves is None else f"{halves:.3f}",
            )
        )
    header = ("images", "mean memorization", "atypical", "rank correlation of halves")
    return Table("Memorization by the images that members were scored on.", header, tuple(rows))


def _influences(found: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            _WORDS[name],
            f"{row['pairs']:,}",
            *(
                f"{row[sign]:,} ({row[f'{sign}_by_chance']:,.1f})"
                for sign in ("helpful", "harmful")
            ),
        )
        for name, row in found.items()
    )
    return Table(
        f"Pairs of a training and a test image with an influence beyond {SIGNIFICANT:g} standard"
        f" errors. In brackets, by chance: the mean of {found['robust']['draws']} counts after the"
        " subsets of the members were exchanged at random.",
        ("images", "pairs", "helpful", "harmful"),
        rows,
    )


def _exchanges(found: Mapping[str, Mapping[str, float]]) -> Table:
    rows = []
    for name, effect in found.items():
        kind, _, accuracy = name.removesuffix("_accuracy").partition("_atypical_on_")
        rows.append(
            (
                _WORDS[kind],
                _WORDS[accuracy],
                f"{100 * effect['value']:+.2f} ± {100 * effect['standard_error']:.2f}",
            )
        )
    return Table(
        "Change of test accuracy, in points with its standard error, if atypical training images"
        " replace typical ones in 1 % of a member's subset; images are atypical by memorization on"
        " clean or on attacked images, from the other half of the members.",
        ("atypical by memorization on", "accuracy on", "change"),
        tuple(rows),
    )


def _scatter(clean: Estimates, robust: Estimates) -> Chart:
    known = np.isfinite(clean.memorization) & np.isfinite(robust.memorization)
    x, y = clean.memorization[known], robust.memorization[known]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([-0.1, 1], [-0.1, 1], color="C6", linestyle=":", linewidth=1)
        scatter(axes, x, y)
        axes.set(
            xlabel="memorization, clean images",
            ylabel="memorization, attacked images",
            aspect="equal",
        )

    above = int(np.sum(y > x))
    return Chart(
        "clean_and_robust",
        "Memorization on clean and on attacked images",
        f"Scatter plot of memorization on attacked against that on clean images; {above:,} of"
        f" {len(x):,} training images lie above the diagonal.",
        f"n = {len(x):,} training images, of which {above:,} lie above the diagonal.",
        draw,
        height=3.8,
    )


def _harmful(experiment: Experiment, robust: Estimates) -> Iterator[Chart]:
    """Yields the pairs of the most harmful influence under attack, if there are any."""
    found = sorted(_candidates(robust))[:_PAIRS_SHOWN]
    if not found:
        return
    train, test = experiment.train, experiment.dataset.test
    names = experiment.dataset.class_names
    images, texts = [], []
    for _, influence, row, column in found:
        images += [train.images[row], test.images[column]]
        texts += [
            f"train: {names[train.labels[row]]}\nmem {robust.memorization[row]:.2f}",
            f"test: {names[test.labels[column]]}\ninfl {influence:.2f}",
        ]
    yield grid(
        "harmful_pairs",
        "Training images and the attacked test images they harm",
        np.stack(images),
        texts,
        "Side by side: a training image, and the test image on which training with it lowers"
        f" accuracy under attack. The {len(found)} pairs that are the most standard errors below 0,"
        " each training image once.",
    )


def _candidates(robust: Estimates) -> Iterator[tuple[float, float, int, int]]:
    """Yields the most harmful pair of every training image, if significant: its z first."""
    for block in robust.influence:
        if not block.values.size or block.standard_error is None:
            continue
        error = block.standard_error
        z = np.divide(block.values, error, out=np.zeros_like(block.values), where=error > 0)
        for place, column in enumerate(np.argmin(z, axis=1)):
            if z[place, column] < -SIGNIFICANT:
                yield (
                    float(z[place, column]),
                    float(block.values[place, column]),
                    int(block.train[place]),
                    int(block.test[column]),
                )
