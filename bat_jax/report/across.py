"""One page on the findings of several data sets, written from their numbers by rule.

    python -m bat_jax.report.across NAME=RESULTS [NAME=RESULTS ...] --output=docs/results

RESULTS is the results.json of finished findings, and NAME what the page calls their data set.
Writes `findings.md`: a table of verdicts, a figure and the numbers of each finding, and what did
not reproduce; `findings_NAME.md` with the long tables of each data set; and `figures/`. Exit
status: 0 done, 1 a file cannot be read or written, 2 a wrong input.
"""

import dataclasses
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bat_jax.errors import UserError
from bat_jax.evaluation.statistics import over_seeds
from bat_jax.findings import power
from bat_jax.findings.claims import Claim, claims, points
from bat_jax.findings.contrasts import Contrast, measured
from bat_jax.findings.results import read_results, seeds_of
from bat_jax.report import findings as tables
from bat_jax.report.command import finish, output_folder
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Table
from bat_jax.report.style import Chart, fitted, legend, point, render
from bat_jax.runtime.files import written_whole
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath, as_path

_HEADINGS = {
    "a": "(a) Memorizing atypical images",
    "b": "(b) Fitting atypical and harmful images",
    "c": "(c) BAT and the others",
}
_NUMBER = re.compile(r"\d+\.\d")


@dataclasses.dataclass(frozen=True)
class Finished:
    """The finished findings of a data set.

    Attributes:
      name: of the data set, for readers.
      summary: the content of results.json.
    """

    name: str
    summary: Mapping[str, Any]

    @property
    def stem(self) -> str:
        """The name in names of files."""
        return re.sub(r"\W+", "_", self.name.lower()).strip("_")

    @property
    def tested(self) -> int:
        """The number of test images of each run."""
        return int(self.summary["accuracies"]["bat"]["best"]["all"]["clean"]["images"])

    @functools.cached_property
    def claims(self) -> dict[str, Claim]:
        """The claims by name, by today's rules, whatever version wrote the numbers."""
        return {claim.name: claim for claim in claims(self.summary)}


def write(finished: Sequence[Finished], folder: AnyPath) -> AnyPath:
    """Writes the page, its figures and the files with long tables; returns the page's path.

    Args:
      finished: the findings of each data set.
      folder: the folder to write to.

    Raises:
      UserError: there are none, or two have names that would share a file.
    """
    stems = [one.stem for one in finished]
    if not finished or len(set(stems)) < len(stems) or not all(stems):
        raise UserError(
            f"names {', '.join(one.name for one in finished) or '(none)'}; expected one or more,"
            " with different letters and digits: they become names of files"
        )
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    charts = {claim: _forest(claim, finished) for claim in _HEADINGS}
    for chart in charts.values():
        if chart is not None:
            drawn = render(chart)
            for kind, content in (("svg", drawn.light), ("png", drawn.png)):
                with written_whole(folder / "figures" / f"{chart.name}.{kind}") as file:
                    file.write(content)
    for one in finished:
        _save(folder / f"findings_{one.stem}.md", _long(one))
    path = folder / "findings.md"
    _save(path, _page(finished, charts))
    return path


def _page(finished: Sequence[Finished], charts: Mapping[str, Chart | None]) -> list[str]:
    """Returns the blocks of the page."""
    blocks = [
        "# The findings across data sets",
        "Written from the numbers by `python -m bat_jax.report.across`. The rules of the verdicts"
        " were fixed before the runs ([docs/findings.md](../findings.md)). Undecided means that"
        " the numbers show neither; beside it stand the true differences, in points, that the"
        " seeds and their spread detect with a probability of 80 %.",
        *_of_looks(finished),
        "\n".join(f"- {line}" for line in _in_short(finished)),
        markdown(_verdicts(finished)),
    ]
    for claim, heading in _HEADINGS.items():
        blocks.append(f"## {heading}")
        chart = charts[claim]
        if chart is not None:
            blocks.append(f"![{chart.alt}](figures/{chart.name}.svg)\n\n{chart.caption}")
        for one in finished:
            lines = [
                f"- **{found.verdict}**, {name.partition(', ')[2] or 'pgd_at'}: {found.numbers}"
                for name, found in one.claims.items()
                if name.partition(",")[0] == claim
            ]
            if lines:
                blocks.append(f"{one.name}:\n\n" + "\n".join(lines))
            if claim == "c":
                blocks += tables.sampled(one.summary)
    blocks += ["## What did not reproduce", "\n".join(_failures(finished)), "## Long tables"]
    blocks.append("\n".join(f"- [{one.name}](findings_{one.stem}.md)" for one in finished))
    return blocks


def _of_looks(finished: Sequence[Finished]) -> list[str]:
    """Returns a paragraph on verdicts at declared looks, if there are any."""
    names = [one.name for one in finished if any(claim.settled for claim in one.claims.values())]
    if not names:
        return []
    return [
        f"On {' and '.join(names)}, seeds may be added at looks that were declared beforehand. A"
        " verdict there needs intervals at the level of 5 % over the number of looks; those below"
        " are the 95 % intervals of a single look, which are narrower."
    ]


def _in_short(finished: Sequence[Finished]) -> list[str]:
    """Returns a line for each data set and finding: its verdicts, counted."""
    lines = []
    for one in finished:
        regime = one.summary["regime"]
        counted = []
        for claim in _HEADINGS:
            verdicts = [
                found.verdict
                for name, found in one.claims.items()
                if name.partition(",")[0] == claim
            ]
            kinds = [
                f"{verdicts.count(kind)} {kind}" if len(verdicts) > 1 else kind
                for kind in ("supported", "refuted", "undecided")
                if kind in verdicts
            ]
            counted.append(f"({claim}) {', '.join(kinds) or 'not tested'}")
        holds = "holds" if regime["holds"] else "does not hold, so the verdicts are weak evidence"
        lines.append(
            f"**{one.name}** ({seeds_of(one.summary)} seeds, {one.tested:,} test images): the"
            f" regime {holds}; {'; '.join(counted)}."
        )
    return lines


def _verdicts(finished: Sequence[Finished]) -> Table:
    """Returns the table of verdicts, one column per data set."""
    statements: dict[str, str] = {}
    for one in finished:
        for name, claim in one.claims.items():
            statements.setdefault(name, claim.statement)
    rows = tuple(
        (statement, *(_cell(one, name) for one in finished))
        for name, statement in statements.items()
    )
    return Table("Verdicts.", ("finding", *(one.name for one in finished)), rows)


def _cell(one: Finished, name: str) -> str:
    claim = one.claims.get(name)
    if claim is None:
        return "not tested"
    sizes = [float(number) for number in _NUMBER.findall(claim.detectable)]
    if claim.verdict != "undecided" or not sizes:
        return claim.verdict
    low, high = min(sizes), max(sizes)
    ends = f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"
    return f"undecided (detects {ends})"


def _failures(finished: Sequence[Finished]) -> list[str]:
    """Returns what was refuted or undecided, what did not train, and what that may come from."""
    lines = []
    for one in finished:
        if not one.summary["regime"]["holds"]:
            lines.append(
                f"- {one.name}, the regime, which asks for"
                f" {100 * one.summary['regime']['bound']:.0f} % on training images and a gap:"
                f" {one.claims['regime'].numbers} Atypical images may be memorized too little,"
                " which may explain any verdict there."
            )
        if one.summary["at_chance"]:
            lines.append(
                f"- {one.name}: {', '.join(one.summary['at_chance'])} ended at chance; verdicts on"
                " these methods reflect that."
            )
    names = dict.fromkeys(name for one in finished for name in one.claims if name != "regime")
    undecided = False
    for name in names:
        found = [one for one in finished if name in one.claims]
        failed = [
            f"{_cell(one, name)} on {one.name}"
            for one in found
            if one.claims[name].verdict != "supported"
        ]
        if failed:
            undecided |= any(one.claims[name].verdict == "undecided" for one in found)
            verdicts = ", ".join(failed)
            statement = found[0].claims[name].statement
            lines.append(f"- {statement} {verdicts[0].upper()}{verdicts[1:]}.")
    if undecided:
        lines.append(
            "\nWhere a claim is undecided, smaller differences than those its seeds detect remain"
            " possible. A refuted claim has a difference of the opposite sign."
        )
    return lines or ["Nothing: every claim was supported on every data set."]


def _forest(claim: str, finished: Sequence[Finished]) -> Chart | None:
    """Returns a chart of a finding's differences with their intervals, or None without any."""
    by_set = {
        one.name: {
            contrast.title.partition(") ")[2]: contrast
            for contrast in measured(one.summary)
            if contrast.claim == claim and not power.failed_arms(one.summary) & set(contrast.arms)
        }
        for one in finished
    }
    names = list(dict.fromkeys(name for found in by_set.values() for name in found))
    if not names:
        return None

    def draw(figure: Figure) -> None:
        axes, entries = figure.subplots(), []
        for number, (data, found) in enumerate(by_set.items()):
            rows = [row for row, name in enumerate(names) if name in found]
            values = [_over(found[names[row]]) for row in rows]
            if not values:
                continue
            means = 100 * np.array([value["mean"] for value in values])
            ends = 100 * np.array([value.get("interval", [value["mean"]] * 2) for value in values])
            drawn = axes.errorbar(
                means,
                np.array(rows) + 0.25 * (number - (len(by_set) - 1) / 2),
                xerr=[means - ends[:, 0], ends[:, 1] - means],
                **point(number),
                capsize=2,
                linestyle="none",
            )
            entries.append((drawn, data))
        axes.axvline(0, color="C6", linewidth=0.8)
        ticks = [fitted(name, inches=1.9, size=7.0, lines=3) for name in names]
        axes.set_yticks(range(len(names)), ticks, fontsize=7)
        axes.set(xlabel="difference (points)", ylim=(len(names) - 0.5, -0.5))
        legend(figure, entries)

    alt = "; ".join(
        f"{data}, {name}: {points(_over(contrast))}"
        for data, found in by_set.items()
        for name, contrast in found.items()
    )
    return Chart(
        f"findings_{claim}",
        _HEADINGS[claim],
        f"Differences in points. {alt}",
        "Mean over seeds and 95 % interval. Above 0 the finding's direction. Methods with a run at"
        " chance are not shown.",
        draw,
        height=1.2 + 0.4 * len(names),
    )


def _over(contrast: Contrast) -> dict[str, Any]:
    return over_seeds(contrast.values, images=contrast.images or None)


def _long(one: Finished) -> list[str]:
    """Returns the blocks of the file with a data set's long tables."""
    summary = one.summary
    rows = []
    for contrast in measured(summary):
        value = _over(contrast)
        size = power.of_difference(value)
        rows.append(
            (
                contrast.title,
                f"{contrast.images:,}",
                points(value),
                "one seed" if size is None else f"{100 * size:.1f}",
            )
        )
    differences = Table(
        "Differences behind the verdicts, in points, with their 95 % intervals over seeds, and the"
        " true difference that as many seeds detect with a probability of 80 %.",
        ("difference", "n", "mean", "detectable"),
        tuple(rows),
    )
    removals = [arm for arm in summary["accuracies"] if arm.startswith("pgd_at-without")]
    variants = list(dict.fromkeys(row["against"] for row in summary["variants"]))
    arms = [*tables.compared_arms(summary), *removals, *variants]
    attacks = summary["attacks"]
    found = [
        differences,
        tables.accuracy_table(summary, arms),
        tables.pair_table(summary["methods"], attacks["methods"]),
    ]
    if variants:
        found.append(tables.pair_table(summary["variants"], attacks["variants"]))
    return [f"# {one.name}: all tables", *map(markdown, found)]


def markdown(table: Table) -> str:
    """Returns a table in Markdown, below its caption."""
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    text = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )
    return f"{table.caption}\n\n{text}"


def _save(path: AnyPath, blocks: Sequence[str]) -> None:
    with written_whole(path) as file:
        file.write(("\n\n".join(blocks) + "\n").encode())


def main(arguments: list[str] | None = None) -> int:
    """Writes the page and prints its path."""
    parser = Parser("python -m bat_jax.report.across", description=__doc__)
    parser.add_argument("results", nargs="+", metavar="NAME=RESULTS", help="of finished findings")
    parser.add_argument("--output", default="findings", help="the page's folder")
    options = parser.parse_args(arguments)
    return finish(
        parser,
        lambda: write([_finished(text) for text in options.results], output_folder(options.output)),
        options.output,
        what="page",
    )


def _finished(text: str) -> Finished:
    """Reads the findings that an argument NAME=RESULTS names."""
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        raise UserError(f"{text}: expected NAME=RESULTS, such as Fashion-MNIST=results.json")
    return Finished(name, read_results(as_path(path)))


if __name__ == "__main__":
    sys.exit(main())
