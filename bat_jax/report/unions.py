"""The union over norms: the content of union.json, and its section of a page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bat_jax.evaluation.records import AUTOATTACK, EVALUATED, Accuracy
from bat_jax.evaluation.runs import ACCURACY, Run
from bat_jax.report import held
from bat_jax.report.charts import bars
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Section, Table
from bat_jax.report.style import Chart, fitted, point
from bat_jax.runtime import schema
from bat_jax.runtime.schema import Number, Object
from bat_jax.runtime.storage import AnyPath

_STATE = Object(
    {
        "clean": ACCURACY,
        "union": ACCURACY,
        "by": Object(others=ACCURACY),
        "broken_by_one_alone": Object(others=Number(low=0, whole=True)),
    }
)
_CONTENT = Object({}, {}, _STATE, EVALUATED.__contains__, " or ".join(EVALUATED))


class Union(NamedTuple):
    """The accuracy of one state under several threats.

    Attributes:
      clean: on clean images.
      by: under each threat, by its title: `Linf 0.03137, AutoAttack`.
      union: under all threats together.
      alone: by title, how many images that threat alone breaks.
    """

    clean: Accuracy
    by: Mapping[str, Accuracy]
    union: Accuracy
    alone: Mapping[str, int]

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """The accuracies on clean images, under each threat and under all, by name."""
        return {"clean": self.clean, **self.by, "union": self.union}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Union":
        """Reads the content of union.json about one state."""
        by = {title: Accuracy.from_json(one) for title, one in content["by"].items()}
        return cls(
            Accuracy.from_json(content["clean"]),
            by,
            Accuracy.from_json(content["union"]),
            {title: content["broken_by_one_alone"][title] for title in by},
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the content of union.json about one state."""
        return {
            "clean": self.clean.to_json(),
            "union": self.union.to_json(),
            "by": {title: one.to_json() for title, one in self.by.items()},
            "broken_by_one_alone": dict(self.alone),
        }


def read(path: AnyPath) -> dict[str, Union]:
    """Reads union.json: the unions by state.

    Raises:
      UserError: the file is missing or damaged.
      OSError: a system error prevented reading it.
    """
    content = schema.read(path, _CONTENT, "a union, as bat_jax.report.union writes it")
    if not content:
        raise schema.ShapeError(f"{path}: has no {' or '.join(EVALUATED)}; expected one of them")
    return {state: Union.from_json(content[state]) for state in EVALUATED if state in content}


def sections(run: Run) -> list[Section]:
    """Returns a section for every union.json that a run's folder holds.

    Raises:
      UserError: a file is damaged.
    """
    return [
        section(
            read(path),
            "Union over norms",
            (held.source(run.folder, path),),
            chart=f"union_{number}",
        )
        for number, path in enumerate(held.paths(run.folder, "union.json"))
    ]


def section(
    unions: Mapping[str, Union], title: str, text: Sequence[str] = (), *, chart: str
) -> Section:
    """Returns the section of the unions by state.

    Args:
      unions: the unions; the chart shows the first.
      title: the heading.
      text: paragraphs to begin with.
      chart: the name of the chart.
    """
    paragraphs = [*text]
    titles = [name for one in unions.values() for name in one.by]
    if not all(name.endswith(f", {AUTOATTACK.title}") for name in titles):
        paragraphs.append(
            "Not every threat is AutoAttack with all its standard attacks: robust accuracy under"
            " other attacks does not establish robustness."
        )
    rows = [
        (f"{state}, {name}", found.percent, found.interval_in_percent, str(one.alone.get(name, "")))
        for state, one in unions.items()
        for name, found in one.accuracies.items()
    ]
    state = next(iter(unions))
    return Section(
        title,
        tuple(paragraphs),
        (
            Table(
                f"Accuracy in percent; 95 % Wilson intervals, n = {unions[state].union.n:,}. Alone:"
                " images that this threat breaks and no other.",
                ("checkpoint, threat", "%", "95 % interval", "alone"),
                tuple(rows),
            ),
        ),
        (_chart(state, unions[state].accuracies, chart),),
    )


def _chart(state: str, accuracies: Mapping[str, Accuracy], name: str) -> Chart:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, one in enumerate(accuracies.values()):
            axes.errorbar(
                100 * one.accuracy,
                number,
                xerr=bars(one),
                **point(number),
                capsize=2,
                linestyle="none",
            )
        ticks = [fitted(title, inches=1.6, size=9.0, lines=2) for title in accuracies]
        axes.set_yticks(range(len(ticks)), ticks)
        axes.set(xlabel="accuracy (%)", xlim=(-1, 101), ylim=(len(ticks) - 0.5, -0.5))

    numbers = "; ".join(f"{title}: {one}" for title, one in accuracies.items())
    return Chart(
        name,
        "Accuracy under each threat and under all",
        f"Dot plot of accuracy in percent. {numbers}.",
        f"Checkpoint: {state}. Bars are 95 % Wilson intervals.",
        draw,
        height=1.4 + 0.35 * len(accuracies),
    )
