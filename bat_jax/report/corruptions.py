"""Accuracies on corrupted test images, if the evaluation recorded them."""

from bat_jax.evaluation.records import OnCorrupted
from bat_jax.evaluation.runs import Run
from bat_jax.report.page import Section, Table


def sections(run: Run) -> list[Section]:
    """Returns a section with a table for each state that was evaluated on corrupted images."""
    found = {
        state: evaluation.corrupted
        for state, evaluation in run.evaluations.items()
        if evaluation.corrupted is not None
    }
    if not found:
        return []
    means = "; ".join(f"{state} {one.mean} %, n = {one.mean.n:,}" for state, one in found.items())
    text = (
        f"Mean accuracy over corruptions and severities: {means}.",
        "All corruptions show the same test images. 95 % intervals of means cover the choice of"
        " these images, not that of the corruptions.",
    )
    tables = tuple(_table(state, one) for state, one in found.items())
    return [Section("Corruptions", text, tables)]


def _table(state: str, found: OnCorrupted) -> Table:
    severities = [key for key in next(iter(found.by.values())) if key != "mean"]
    return Table(
        f"Accuracy ({state}) on n = {found.mean.n:,} corrupted test images in percent, with 95 %"
        " intervals, by severity.",
        ("corruption", "mean", *severities),
        tuple(
            (name, str(by["mean"]), *(str(by[severity]) for severity in severities))
            for name, by in found.by.items()
        ),
    )
