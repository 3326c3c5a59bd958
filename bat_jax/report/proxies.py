"""Cheap proxies of memorization against its estimates: a table and a figure."""

import logging

import numpy as np

from bat_jax import memorization
from bat_jax.errors import UserError
from bat_jax.evaluation.runs import Run
from bat_jax.memorization import proxies
from bat_jax.memorization.proxies import Comparison
from bat_jax.memorization.ranking import Measured
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Section, Table
from bat_jax.report.style import Chart

log = logging.getLogger(__name__)

_NAMES = {"mean_loss": "mean loss in training (nats)", "forgetting": "times forgotten"}


def section(run: Run) -> Section | None:
    """Returns how the proxies of a run agree with the estimates that it was given.

    None, and a warning where a file cannot be read, if it has no proxies or no estimates.
    """
    settings, path = run.config["memorization"], run.folder / proxies.FILE
    if settings["estimates"] is None or not path.exists():
        return None
    try:
        compared = proxies.compare(
            proxies.load(path),
            memorization.load(settings["estimates"]),
            threshold=settings["threshold"],
        )
    except UserError as error:
        log.warning("no proxies: %s", error)
        return None
    return Section(
        "Cheap proxies of memorization",
        (
            "What this run alone says of its training images, without an ensemble: the mean of an"
            " image's losses over the training, and how often it was right once and wrong the next"
            " time; an image that was never right counts as forgotten most of all. The nearer to 1"
            " the rank correlation with the estimates, and the AUROC of finding the atypical"
            " images, the better they may replace them.",
        ),
        (_table(compared, settings["threshold"]),),
        (_scatter(compared),),
    )


def _table(compared: dict[str, Comparison], threshold: float) -> Table:
    rows = []
    for name, comparison in compared.items():
        measured = comparison.rank_correlation, comparison.auroc
        texts = (_with_interval(m) for m in measured)
        counts = f"{measured[0].n:,}", f"{comparison.atypical:,}"
        rows.append((_NAMES[name], *counts, *texts))
    return Table(
        "Against estimated memorization; 95 % intervals by the bootstrap over images. Atypical:"
        f" memorization above {threshold:g}.",
        ("proxy", "n", "atypical", "rank correlation", "AUROC, atypical"),
        tuple(rows),
    )


def _scatter(compared: dict[str, Comparison]) -> Chart:
    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(compared), sharey=True)
        for number, (axes, (name, comparison)) in enumerate(
            zip(panels, compared.items(), strict=True)
        ):
            is_finite = np.isfinite(comparison.proxy)
            most = np.max(comparison.proxy[is_finite], initial=0)
            never = most + max(1, 0.1 * most)
            axes.plot(
                np.where(is_finite, comparison.proxy, never),
                comparison.memorization,
                "o",
                color=f"C{number}",
                markersize=2.5,
                alpha=0.4,
                # Of the many points of a large set an SVG keeps a picture.
                rasterized=True,
            )
            axes.set(xlabel=_NAMES[name])
            if not is_finite.all():
                axes.axvline((most + never) / 2, color="C6", linestyle=":", linewidth=1)
                axes.annotate(
                    "never right",
                    (never, 1.01),
                    xycoords=axes.get_xaxis_transform(),
                    ha="right",
                    va="bottom",
                    fontsize=7,
                )
        panels[0].set(ylabel="memorization")

    told = "; ".join(
        f"{_NAMES[name]}: rank correlation {_with_interval(comparison.rank_correlation)}"
        for name, comparison in compared.items()
    )
    n = next(iter(compared.values())).rank_correlation.n
    return Chart(
        "proxies",
        "Proxies against estimated memorization",
        f"Two scatter plots of memorization against its proxies, n = {n}. {told}.",
        f"n = {n:,} training images; {told}.",
        draw,
    )


def _with_interval(measured: Measured) -> str:
    if np.isnan(measured.value):
        return "not known"
    low, high = measured.interval
    return f"{measured.value:.3f} ({low:.3f} to {high:.3f})"
