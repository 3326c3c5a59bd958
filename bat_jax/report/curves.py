"""Robust accuracy against epsilon: the content of curve.json, and its section of a page."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bat_jax.attacks import MinimalNorms
from bat_jax.evaluation.records import Accuracy, percent
from bat_jax.evaluation.runs import ACCURACY, Run
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Section, Table
from bat_jax.report.style import Chart, legend, line
from bat_jax.runtime import schema
from bat_jax.runtime.schema import ListOf, Number, Object, Text
from bat_jax.runtime.storage import AnyPath

_POINTS = ListOf(Object({"epsilon": Number(low=0), **ACCURACY.names}), shortest=2)
_CONTENT = Object(
    {"state": Text(), "norm": Text(), "attacks": ListOf(Text(), shortest=1), "robust": _POINTS},
    {"weights": Text(), "fab": _POINTS},
)


class Curve(NamedTuple):
    """Robust accuracy by epsilon, from 0, where it is clean accuracy.

    Attributes:
      state: the checkpoint.
      weights: the content hash of its variables; None if an older version wrote the file.
      norm: of the radii.
      attacks: of AutoAttack, in order.
      robust: the accuracy under all of them.
      fab: the accuracy under FAB-T alone; None if it was not run.
    """

    state: str
    weights: str | None
    norm: str
    attacks: tuple[str, ...]
    robust: Mapping[float, Accuracy]
    fab: Mapping[float, Accuracy] | None

    @classmethod
    def of(
        cls,
        found: MinimalNorms,
        *,
        state: str,
        weights: str,
        norm: str,
        attacks: tuple[str, ...],
    ) -> "Curve":
        """Returns the curve of bracketed perturbations."""
        epsilons, fab = (0.0, *found.epsilons), None
        if found.fab is not None:
            fab = {e: Accuracy.of(found.clean & (found.fab > e)) for e in epsilons}
        robust = {e: Accuracy.of(found.robust(e)) for e in epsilons}
        return cls(state, weights, norm, attacks, robust, fab)

    @classmethod
    def read(cls, path: AnyPath) -> "Curve":
        """Reads curve.json.

        Raises:
          UserError: the file is missing or damaged.
          OSError: a system error prevented reading it.
        """
        content = schema.read(path, _CONTENT, "a curve, as bat_jax.report.curve writes it")
        robust, fab = (
            {float(point["epsilon"]): Accuracy.from_json(point) for point in content[name]}
            if name in content
            else None
            for name in ("robust", "fab")
        )
        assert robust is not None
        state, norm, attacks = (content[name] for name in ("state", "norm", "attacks"))
        return cls(state, content.get("weights"), norm, tuple(attacks), robust, fab)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of curve.json."""

        def points(accuracies: Mapping[float, Accuracy]) -> list[dict[str, Any]]:
            return [{"epsilon": e, **accuracy.to_json()} for e, accuracy in accuracies.items()]

        content = {
            "state": self.state,
            **({} if self.weights is None else {"weights": self.weights}),
            "norm": self.norm,
            "attacks": [*self.attacks],
            "robust": points(self.robust),
        }
        return content if self.fab is None else {**content, "fab": points(self.fab)}


def sections(run: Run) -> list[Section]:
    """Returns a section for every curve in a run's subfolders, `curve-<norm>` and others.

    Raises:
      UserError: a file is damaged.
    """
    found = [Curve.read(path) for path in sorted(run.folder.glob("curve-*/curve.json"))]
    return [
        section(
            one,
            f"Robust accuracy against epsilon in {one.norm.capitalize()}"
            + ("" if one.state == "best" else f", {one.state} checkpoint"),
            chart=f"curve_{number}_{one.norm}",
        )
        for number, one in enumerate(found)
    ]


def section(curve: Curve, title: str, *, chart: str) -> Section:
    """Returns the section of a curve, with the name of its chart."""
    fab = curve.fab or {}
    header = ("epsilon", "robust accuracy", *(("under FAB-T alone",) if fab else ()))
    rows = [
        (f"{epsilon:.4g}", str(value), *((str(fab[epsilon]),) if fab else ()))
        for epsilon, value in curve.robust.items()
    ]
    n = next(iter(curve.robust.values())).n
    return Section(
        title,
        (
            "Each image is attacked at the radii that are neither known to break it nor known to be"
            " withstood, and an image that is broken at one radius is broken at every larger one."
            " Accuracy at a radius is therefore an upper bound, as under any attack.",
        ),
        (
            Table(
                f"Accuracy in percent with 95 % Wilson intervals, n = {n:,}; at 0, of clean"
                f" images. Checkpoint: {curve.state}. Attacks: {', '.join(curve.attacks)}.",
                header,
                tuple(rows),
            ),
        ),
        (_chart(curve, chart),),
    )


def _chart(curve: Curve, name: str) -> Chart:
    series = {"all attacks": curve.robust, **({"FAB-T alone": curve.fab} if curve.fab else {})}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        entries = []
        for number, (title, points) in enumerate(series.items()):
            epsilons = list(points)
            (drawn,) = axes.plot(
                epsilons, [100 * one.accuracy for one in points.values()], **line(number)
            )
            low, high = ([100 * one.interval[end] for one in points.values()] for end in (0, 1))
            axes.fill_between(epsilons, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
            entries.append((drawn, title))
        axes.set(xlabel="epsilon", ylabel="robust accuracy (%)", ylim=(0, 101), xlim=(0, None))
        legend(figure, entries)

    numbers = "; ".join(f"{e:.4g}: {percent(one.accuracy)} %" for e, one in curve.robust.items())
    return Chart(
        name,
        "Robust accuracy against epsilon",
        f"Line chart of robust accuracy in percent against epsilon. {numbers}.",
        "Bands are 95 % Wilson intervals over the images.",
        draw,
    )
