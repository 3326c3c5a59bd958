"""Compares cheap proxies of memorization with estimates of it: a table and a figure."""

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
from bat_jax.report.style import Chart, scatter

log = logging.getLogger(__name__)

_NAMES = {"mean_loss": "mean loss in training (nats)", "forgetting": "times forgotten"}


def section(run: Run) -> Section | None:
    """Returns how a run's proxies agree with its estimates; None if it lacks either.

    If a file cannot be read, warns and returns None.
    """
    settings, path = run.config["memorization"], run.folder / proxies.FILE
    if settings["estimates"] is None or not path.exists():
        return None
    try:
        compared = proxies.compare(
            proxies.load(path), _estimates(run), threshold=settings["threshold"]
        )
    except UserError as error:
        log.warning("no proxies: %s", error)
        return None
    return Section(
        "Cheap proxies of memorization",
        (
            "Both come from this run alone, without an ensemble: an image's mean loss over"
            " training, and how often its prediction turned from correct to wrong; an image never"
            " correct counts as the most forgotten. The closer to 1 the rank correlation with the"
            " estimates, and the AUROC of detecting atypical images, the better a proxy can replace"
            " the estimates.",
        ),
        (_table(compared, settings["threshold"]),),
        (_scatter(compared),),
    )


def _estimates(run: Run) -> memorization.Estimates:
    """Returns the estimates that a run was made with.

    Raises:
      UserError: their file cannot be read, or holds other estimates now.
    """
    path, classes = run.config["memorization"]["estimates"], run.config["data"].get("classes")
    estimates = memorization.load(path)
    if classes is not None:
        estimates = memorization.select(estimates, classes)
    digest = estimates.digest()
    if run.about["data"].get("estimates", digest) != digest:
        raise UserError(
            f"{path}: holds other estimates than {run.folder} was made with; expected the same"
        )
    return estimates


def _table(compared: dict[str, Comparison], threshold: float) -> Table:
    rows = []
    for name, comparison in compared.items():
        measured = (
            comparison.rank_correlation,
            comparison.pearson,
            comparison.cosine,
            comparison.auroc,
        )
        texts = (_with_interval(m) for m in measured)
        counts = f"{measured[0].n:,}", f"{comparison.atypical:,}"
        rows.append((_NAMES[name], *counts, *texts))
    return Table(
        "Against estimated memorization; 95 % bootstrap intervals over images. Atypical:"
        f" memorization above {threshold:g}.",
        ("proxy", "n", "atypical", "rank correlation", "Pearson", "cosine", "AUROC, atypical"),
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
            drawn = np.where(is_finite, comparison.proxy, never)
            scatter(axes, drawn, comparison.memorization, color=f"C{number}")
            axes.set(xlabel=_NAMES[name])
            if not is_finite.all():
                axes.axvline((most + never) / 2, color="C6", linestyle=":", linewidth=1)
                axes.annotate(
                    "never correct",
                    (never, 1.01),
                    xycoords=axes.get_xaxis_transform(),
                    ha="right",
                    va="bottom",
                    fontsize=7,
                )
        panels[0].set(ylabel="memorization")

    numbers = "; ".join(
        f"{_NAMES[name]}: rank correlation {_with_interval(comparison.rank_correlation)}"
        for name, comparison in compared.items()
    )
    n = next(iter(compared.values())).rank_correlation.n
    return Chart(
        "proxies",
        "Proxies against estimated memorization",
        f"Two scatter plots of memorization against its proxies, n = {n}. {numbers}.",
        f"n = {n:,} training images; {numbers}.",
        draw,
    )


def _with_interval(measured: Measured) -> str:
    if np.isnan(measured.value):
        return "not known"
    low, high = measured.interval
    return f"{measured.value:.3f} ({low:.3f} to {high:.3f})"
