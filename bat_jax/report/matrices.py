"""Transfer between runs: the content of transfer.json, and its section of a page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from bat_jax.evaluation.records import Accuracy, Measure
from bat_jax.evaluation.runs import ACCURACY, Run
from bat_jax.report import held
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Section, Table
from bat_jax.report.style import Chart, fitted
from bat_jax.runtime import schema
from bat_jax.runtime.schema import Object, Place, Text
from bat_jax.runtime.storage import AnyPath

_BY_TARGET = Object(others=ACCURACY)
_CONTENT = Object({"clean": _BY_TARGET, "attack": Text(), "sources": Object(others=_BY_TARGET)})


class Matrix(NamedTuple):
    """The accuracy of runs on images made against each other.

    Attributes:
      attack: the attack that made them.
      clean: the accuracy of each run on clean images, by its name.
      sources: by the run that was attacked, the accuracy of each run.
    """

    attack: Measure
    clean: Mapping[str, Accuracy]
    sources: Mapping[str, Mapping[str, Accuracy]]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the runs."""
        return tuple(self.clean)

    @property
    def values(self) -> np.ndarray:
        """The accuracies, the attacked runs in rows."""
        return np.array([[one.accuracy for one in row.values()] for row in self.sources.values()])

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        attack: Measure,
        clean: Bool[np.ndarray, "runs images"],
        robust: Bool[np.ndarray, "sources targets images"],
    ) -> "Matrix":
        """Returns the matrix of verdicts, whether each image is classified correctly."""

        def by_target(rows: Bool[np.ndarray, "targets images"]) -> dict[str, Accuracy]:
            return {name: Accuracy.of(row) for name, row in zip(names, rows, strict=True)}

        sources = {name: by_target(rows) for name, rows in zip(names, robust, strict=True)}
        return cls(attack, by_target(clean), sources)

    @classmethod
    def read(cls, path: AnyPath) -> "Matrix":
        """Reads transfer.json.

        Raises:
          UserError: the file is missing or damaged.
          OSError: a system error prevented reading it.
        """
        content = schema.read(path, _CONTENT, "a matrix, as bat_jax.report.transfer writes it")
        if not Measure.is_key(content["attack"]):
            Place(str(path), "attack").refuse(content["attack"], "a PGD, such as pgd20")
        names = list(content["clean"])
        if len(names) < 2:
            raise schema.ShapeError(f"{path}: clean has {len(names)} run(s); expected two or more")

        def by_target(rows: Mapping[str, Any]) -> dict[str, Accuracy]:
            return {name: Accuracy.from_json(rows[name]) for name in names}

        sources = {name: by_target(content["sources"][name]) for name in names}
        return cls(Measure.parse(content["attack"]), by_target(content["clean"]), sources)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of transfer.json."""

        def plain(row: Mapping[str, Accuracy]) -> dict[str, Any]:
            return {name: one.to_json() for name, one in row.items()}

        sources = {name: plain(row) for name, row in self.sources.items()}
        return {"clean": plain(self.clean), "attack": self.attack.key, "sources": sources}


def sections(run: Run) -> list[Section]:
    """Returns a section for every transfer.json that a run's folder holds.

    Raises:
      UserError: a file is damaged.
    """
    return [
        section(
            Matrix.read(path),
            "Transfer between runs",
            (held.source(run.folder, path),),
            chart=f"transfer_{number}",
        )
        for number, path in enumerate(held.paths(run.folder, "transfer.json"))
    ]


def section(matrix: Matrix, title: str, text: Sequence[str] = (), *, chart: str) -> Section:
    """Returns the section of a matrix.

    Args:
      matrix: the accuracies.
      title: the heading.
      text: paragraphs to begin with.
      chart: the name of the chart.
    """
    rows = {"none: clean images": matrix.clean, **matrix.sources}
    n = next(iter(matrix.clean.values())).n
    return Section(
        title,
        (
            *text,
            "A target that is less robust to images made against another run than to those made"
            " against itself may mask its gradients: white-box attacks then overestimate its"
            " robustness.",
        ),
        (
            Table(
                "Accuracy in percent of the run in the column on images made against the run in"
                f" the row by {matrix.attack.title}; 95 % Wilson intervals, n = {n:,}.",
                ("made against", *matrix.names),
                tuple((name, *map(str, row.values())) for name, row in rows.items()),
            ),
        ),
        (_chart(matrix, chart),),
    )


def _chart(matrix: Matrix, name: str) -> Chart:
    percentages = 100 * matrix.values

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        shown = axes.imshow(percentages, vmin=0, vmax=100, cmap="cividis", aspect="auto")
        ticks = [fitted(one, inches=1.2, size=9.0, lines=2) for one in matrix.names]
        axes.set_xticks(range(len(ticks)), ticks, rotation=30, ha="right")
        axes.set_yticks(range(len(ticks)), ticks)
        axes.set(xlabel="target", ylabel="made against")
        for (source, target), value in np.ndenumerate(percentages):
            # Not white, which is a colour of the theme.
            color = "black" if value > 50 else "#fafafa"
            axes.text(target, source, f"{value:.1f}", ha="center", va="center", color=color)
        figure.colorbar(shown, label="accuracy (%)")

    numbers = "; ".join(
        f"made against {source}, {target} {one.percent}"
        for source, row in matrix.sources.items()
        for target, one in row.items()
    )
    return Chart(
        name,
        "Accuracy on transferred images",
        f"Matrix of accuracy in percent. {numbers}.",
        "Rows: the run that the images were made against. Columns: the run that classifies them.",
        draw,
        height=1.6 + 0.5 * len(matrix.names),
    )
