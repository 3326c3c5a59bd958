"""One page on the findings of several data sets, written from their numbers by rule.

    python -m bat_jax.report.across NAME=RESULTS [NAME=RESULTS ...] --output=docs/results

RESULTS is the results.json of finished findings, and NAME what the page calls their data set.
Writes `findings.md`: a table of verdicts, a figure and the numbers of each finding, the trade-off
of each data set, and what did not reproduce; `findings_NAME.md` with the long tables of each data
set; and `figures/`. Exit status: 0 done, 1 a file cannot be read or written, 2 a wrong input.
"""

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bat_jax.errors import UserError
from bat_jax.evaluation.records import AUTOATTACK, CLEAN, STATES
from bat_jax.evaluation.statistics import over_seeds
from bat_jax.findings import power
from bat_jax.findings.claims import points, sign
from bat_jax.findings.contrasts import Contrast, measured
from bat_jax.findings.removal import is_removal
from bat_jax.findings.results import measure_title, read_results
from bat_jax.report import findings as tables
from bat_jax.report import findings_charts
from bat_jax.report.command import finish, output_folder
from bat_jax.report.finished import Finished
from bat_jax.report.page import Table
from bat_jax.report.style import Chart, render
from bat_jax.runtime.files import written_whole
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath, as_path

_HEADINGS = {
    "a": "(a) Memorizing atypical images",
    "b": "(b) Fitting atypical and harmful images",
    "c": "(c) BAT and the others",
}
_BOLD = "bold where the interval excludes 0, at the level of the looks if there are any"
# A difference in a claim's text; names of arms may have such numbers too.
_NUMBER = re.compile(r"(?<= )\d+\.\d(?=,| points)")


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
    charts = {claim: _differences(claim, finished) for claim in _HEADINGS}
    fronts = [_front(one) for one in finished]
    for chart in (*charts.values(), *fronts):
        if chart is not None:
            with written_whole(folder / "figures" / f"{chart.name}.svg") as file:
                file.write(render(chart).light)
    for one in finished:
        _save(folder / f"findings_{one.stem}.md", _long(one))
    path = folder / "findings.md"
    _save(path, _page(finished, charts, fronts))
    return path


def _page(
    finished: Sequence[Finished], charts: Mapping[str, Chart | None], fronts: Sequence[Chart]
) -> list[str]:
    """Returns the blocks of the page."""
    blocks = [
        "# The findings across data sets",
        "Written from the numbers by `python -m bat_jax.report.across`. The rules of the verdicts"
        " were fixed before the runs; [docs/findings.md](../findings.md) has them, with the"
        " commands, the runs, the hardware and the dates. Undecided means that the numbers show"
        " neither; beside it stand the true differences, in points, that this spread lets the seeds"
        " that were run, or those of the last declared look, detect with a probability of 80 %."
        " Intervals are 95 % t intervals over seeds.",
        *_of_looks(finished),
        "\n".join(f"- {line}" for line in _in_short(finished)),
        markdown(_verdicts(finished)),
    ]
    for claim, heading in _HEADINGS.items():
        blocks.append(f"## {heading}")
        chart = charts[claim]
        if chart is not None:
            blocks.append(_shown(chart))
        blocks += [block for one in finished for block in _NUMBERS[claim](one)]
    blocks += ["## Clean against robust accuracy"]
    blocks += [_shown(chart) for chart in fronts]
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
            verdicts = [found.verdict for found in one.claims_of(claim).values()]
            kinds = [
                f"{verdicts.count(kind)} {kind}" if len(verdicts) > 1 else kind
                for kind in ("supported", "refuted", "undecided")
                if kind in verdicts
            ]
            counted.append(f"({claim}) {', '.join(kinds) or 'not tested'}")
        holds = "holds" if regime["holds"] else "does not hold, so the verdicts are weak evidence"
        lines.append(
            f"**{one.name}** ({one.seeds}, {one.tested:,} {one.kind}): the"
            f" regime {holds}; {'; '.join(counted)}."
        )
    return lines


def _verdicts(finished: Sequence[Finished]) -> Table:
    """Returns the table of verdicts, one column per data set."""
    rows = tuple(
        (statement, *(_cell(one, name) for one in finished))
        for name, statement in _statements(finished).items()
    )
    return Table("Verdicts.", ("finding", *(one.name for one in finished)), rows)


def _statements(finished: Sequence[Finished]) -> dict[str, str]:
    """Returns the statement of every claim by its name: the regime, then those of each finding."""
    return {
        name: claim.statement
        for finding in ("regime", *_HEADINGS)
        for one in finished
        for name, claim in one.claims_of(finding).items()
    }


def _cell(one: Finished, name: str) -> str:
    claim = one.claims.get(name)
    if claim is None:
        return "not tested"
    sizes = [float(number) for number in _NUMBER.findall(claim.detectable)]
    if claim.verdict != "undecided" or not sizes:
        return claim.verdict
    low, high = min(sizes), max(sizes)
    ends = f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"
    return f"undecided (would detect {ends} points)"


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
                f"- {one.name}: the best state of {', '.join(one.summary['at_chance'])} has less"
                f" than twice chance accuracy on clean {one.kind}; verdicts on these methods"
                " reflect that."
            )
    undecided = 0
    for name, statement in _statements(finished).items():
        if name == "regime":
            continue
        found = [one for one in finished if name in one.claims]
        undecided += sum(one.claims[name].verdict == "undecided" for one in found)
        refuted = [one.name for one in found if one.claims[name].verdict == "refuted"]
        if refuted:
            lines.append(f"- {statement} Refuted on {' and '.join(refuted)}.")
    if undecided:
        lines.append(
            f"- Undecided verdicts: {undecided}. Differences smaller than those that the table"
            " states remain possible there."
        )
    return lines or ["Nothing: every claim was supported on every data set."]


def _shown(chart: Chart) -> str:
    """Returns a chart's picture and its caption."""
    return f"![{chart.alt}](figures/{chart.name}.svg)\n\n{chart.caption}"


def _differences(claim: str, finished: Sequence[Finished]) -> Chart | None:
    """Returns a chart of a finding's differences with their intervals, or None without any."""
    found = {one.name: one.differences(claim) for one in finished}
    if not any(found.values()):
        return None
    chart = findings_charts.differences(f"findings_{claim}", _HEADINGS[claim], found)
    sampled = [
        one.name
        for one in finished
        if "sampled" in one.summary and any(AUTOATTACK.title in name for name in found[one.name])
    ]
    caption = f"Best checkpoint. {chart.caption}" if claim == "c" else chart.caption
    if sampled:
        caption += f" AutoAttack is sampled on {' and '.join(sampled)}."
    return dataclasses.replace(chart, caption=caption)


def _front(one: Finished) -> Chart:
    """Returns the trade-off of the methods of a data set, of their best checkpoints."""
    attack = one.summary["attacks"]["methods"]["best"]
    arms = tables.compared_arms(one.summary)
    chart = findings_charts.trade_off(one.summary, arms, attack, "best", f"findings_{one.stem}")
    return dataclasses.replace(
        chart, alt=f"{one.name}: {chart.title}", caption=f"{one.name}. {chart.caption}"
    )


def _of_memorizing(one: Finished) -> list[str]:
    """Returns the numbers of (a)."""
    claim = one.claims["a"]
    return [f"{one.name}: **{claim.verdict}**. {claim.numbers}"]


def _of_removal(one: Finished) -> list[str]:
    """Returns the table of (b): differences on typical test images."""
    attacks = one.summary["attacks"]["removal"]
    rows = []
    for row in (*one.summary["removal"], *one.summary.get("harmful", ())):
        kinds = ("harmful", row["against"]) if "against" in row else ("atypical", "random")
        measures = (CLEAN.key, attacks[row["state"]])
        rows.append(
            (
                f"{100 * row['part']:g} % {kinds[0]} minus {kinds[1]}",
                f"{row['removed']}",
                f"{row['state']}",
                *(_cell_of(row.get("typical", {}).get(measure)) for measure in measures),
            )
        )
    caption = (
        f"{one.name}: typical {one.kind} without some training images minus without equally many"
        f" others, in points, over {one.seeds}; {_BOLD}."
    )
    names = " or ".join(
        dict.fromkeys(measure_title(one.summary, attack) for attack in attacks.values())
    )
    header = ("removed", "images", "checkpoint", "clean", names)
    return [markdown(Table(caption, header, tuple(rows)))] if rows else []


def _of_methods(one: Finished) -> list[str]:
    """Returns the table of (c), differences on all test images, and what was sampled."""
    attacks = one.summary["attacks"]["methods"]
    measures = [(state, key) for state in STATES for key in (CLEAN.key, attacks[state])]
    rows = tuple(
        (f"{ours} minus {other}", *(_cell_of(by_state[state][key]) for state, key in measures))
        for (ours, other), by_state in one.pairs().items()
    )
    caption = (
        f"{one.name}: differences on {one.tested:,} {one.kind} in points, over {one.seeds};"
        f" {_BOLD}."
    )
    header = tuple(f"{state}, {measure_title(one.summary, key)}" for state, key in measures)
    return [markdown(Table(caption, ("runs", *header), rows)), *tables.sampled(one.summary)]


_NUMBERS = {"a": _of_memorizing, "b": _of_removal, "c": _of_methods}


def _cell_of(value: Mapping[str, Any] | None) -> str:
    """Returns a difference in points, bold where it has a sign."""
    if value is None:
        return "not tested"
    text = points(value, seeds=False)
    return f"**{text}**" if sign(value) else text


def _over(contrast: Contrast) -> dict[str, Any]:
    return over_seeds(contrast.values, images=contrast.images or None)


def _long(one: Finished) -> list[str]:
    """Returns the blocks of the file with a data set's long tables."""
    summary = one.summary
    rows = []
    for contrast in measured(summary):
        value = _over(contrast)
        size = power.of_difference(value)
        note = " (sampled)" if contrast.measure == AUTOATTACK.title and "sampled" in summary else ""
        rows.append(
            (
                contrast.title + note,
                f"{contrast.images:,}",
                points(value),
                "one seed" if size is None else f"{100 * size:.1f}",
            )
        )
    differences = Table(
        "Differences behind the verdicts, in points, with their 95 % intervals over seeds, and the"
        " true difference that as many seeds detect with a probability of 80 %, at a single look.",
        ("difference", "n", "mean", "detectable"),
        tuple(rows),
    )
    removals = [arm for arm in summary["accuracies"] if is_removal(arm)]
    variants = list(dict.fromkeys(row["against"] for row in summary["variants"]))
    arms = [*tables.compared_arms(summary), *removals, *variants]
    found = [
        differences,
        tables.accuracy_table(summary, arms),
        tables.pair_table(summary, "methods"),
    ]
    if variants:
        found.append(tables.pair_table(summary, "variants"))
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
