"""Accuracies of every class or superclass, if the evaluation recorded them."""

import numpy as np

from bat_jax.evaluation.records import CLEAN, Evaluation
from bat_jax.evaluation.runs import Run
from bat_jax.report.charts import bars, of_samples, tested
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Section, Table
from bat_jax.report.style import Chart, fitted, legend, point

_PLURAL = {"class": "classes", "superclass": "superclasses"}
# With more groups, dots would be too close to read.
_MOST_DOTS = 40


def sections(run: Run) -> list[Section]:
    """Returns a section for each kind of group, classes and superclasses, that was evaluated."""
    return [_section(run, kind) for kind in run.evaluations[run.states[0]].by]


def _section(run: Run, kind: str) -> Section:
    state = run.states[0]
    found = run.evaluations[state].by[kind]
    n = sum(accuracies[CLEAN].n for accuracies in found.values())
    text = (
        f"{len(found)} {_PLURAL[kind]} of the {n:,} {tested(run)}. Intervals hold for one"
        f" {kind} at a time: of 20 intervals, one is expected to miss the true accuracy.",
    )
    charts = (_chart(run, kind),) if len(found) <= _MOST_DOTS else ()
    tables = tuple(
        _table(state, kind, evaluation)
        for state, evaluation in run.evaluations.items()
        if kind in evaluation.by
    )
    return Section(f"Accuracy by {kind}", text, tables, charts)


def _table(state: str, kind: str, evaluation: Evaluation) -> Table:
    found = evaluation.by[kind]
    measures = list(next(iter(found.values())))
    return Table(
        f"Accuracy of the {state} checkpoint in percent; 95 % Wilson intervals."
        f"{of_samples([evaluation])}",
        (kind, "n", *map(evaluation.title, measures)),
        tuple(
            (name, f"{accuracies[CLEAN].n:,}", *(str(accuracies[m]) for m in measures))
            for name, accuracies in found.items()
        ),
    )


def _chart(run: Run, kind: str) -> Chart:
    evaluation, attack = run.evaluations[run.states[0]], run.attack
    found = evaluation.by[kind]
    titles = {measure: evaluation.title(measure) for measure in (CLEAN, attack)}
    # The most robust group first.
    names = sorted(found, key=lambda name: -found[name][attack].accuracy)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        entries = []
        for number, (measure, title) in enumerate(titles.items()):
            values = [found[name][measure] for name in names]
            drawn = axes.errorbar(
                [100 * value.accuracy for value in values],
                np.arange(len(names)) + 0.25 * (number - 0.5),
                xerr=np.concatenate([bars(value) for value in values], axis=1),
                **point(number),
                capsize=2,
                elinewidth=0.8,
                linestyle="none",
            )
            entries.append((drawn, title))
        ticks = [fitted(name, inches=1.6, size=9.0, lines=1) for name in names]
        axes.set_yticks(range(len(names)), ticks)
        axes.set(xlabel="accuracy (%)", xlim=(-1, 101), ylim=(len(names) - 0.5, -0.5))
        legend(figure, entries)

    listed = "; ".join(
        f"{name}: "
        + ", ".join(f"{title} {found[name][m].percent} %" for m, title in titles.items())
        for name in names
    )
    return Chart(
        f"by_{kind}",
        f"Accuracy by {kind}",
        f"Dot plot of accuracy in percent by {kind}, sorted by {titles[attack]}. {listed}.",
        f"Checkpoint: {run.states[0]}. Bars are 95 % Wilson intervals."
        f"{of_samples([evaluation], attack)} The order is that of {titles[attack]}.",
        draw,
        height=1.4 + 0.3 * len(names),
    )
