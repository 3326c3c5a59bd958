"""The report of the findings: each claim with its rule, its verdict and its numbers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bat_jax import methods
from bat_jax.evaluation import runs
from bat_jax.evaluation.records import AUTOATTACK, CLEAN, GROUPS, STATES, is_standard
from bat_jax.findings import power
from bat_jax.findings.claims import FEWEST_SEEDS, over, points
from bat_jax.findings.contrasts import tested
from bat_jax.findings.removal import is_removal
from bat_jax.findings.results import measure_title, read_results, seeds_of
from bat_jax.report import findings_charts, pictures
from bat_jax.report.page import Page, Section, Table, write
from bat_jax.report.single import facts
from bat_jax.runtime.schema import ListOf, Number, Object, Place, Text
from bat_jax.runtime.storage import AnyPath

Summary = Mapping[str, Any]

_FINDINGS = {
    "seeds": ListOf(Number(whole=True), shortest=1),
    "methods": ListOf(Text(), shortest=1),
}
_CONFIG = Object({"data": Object({"name": Text()}), "findings": Object(_FINDINGS)})


def report(folder: AnyPath, output: AnyPath) -> AnyPath:
    """Writes `report.html` and `figures/` of finished findings; returns the page's path.

    Raises:
      UserError: the folder holds no finished findings.
    """
    about = runs.read_about(folder)
    config = _CONFIG.check(about["config"], Place(str(folder / "config.json"), "config"))
    return write(_page(folder, config, read_results(folder / "results.json")), output)


def table(summary: Summary) -> str:
    """Returns a printable table of the claims, their verdicts and their numbers."""
    lines = []
    for claim in summary["claims"]:
        lines += [f"{claim['verdict'].upper()}  {claim['statement']}", f"    {claim['numbers']}"]
        if claim.get("detectable"):
            lines.append(f"    detectable: {claim['detectable']}")
        if claim.get("settled"):
            lines.append(f"    {claim['settled']}")
    if "design" in summary:
        chosen = summary["design"]["winner"].items()
        lines.append("SEARCH  chosen: " + ", ".join(f"{name}={value}" for name, value in chosen))
    return "\n".join(lines)


def _page(folder: AnyPath, config: Mapping[str, Any], summary: Summary) -> Page:
    seeds = seeds_of(summary)
    first = runs.read(folder / "runs" / f"bat-seed{config['findings']['seeds'][0]}")
    made = len(summary["accuracies"]) * seeds
    known = facts(first)
    known["Training"] = known["Training"].partition(", seed")[0] + (
        f"; {made} runs, {seeds} seed(s) each, {summary['seconds'] / 60:,.0f} minutes of training"
    )
    known["Method"] = ", ".join(
        methods.title(name) for name in config["findings"]["methods"]
    ) + methods.options_title(config["objective"])
    attacks = sorted(
        {
            measure_title(summary, attack)
            for part in ("methods", "removal")
            for attack in summary["attacks"][part].values()
        }
    )
    return Page(
        title=f"Findings: {config['data']['name']}",
        summary="Does adversarial training suffer from memorizing atypical samples, and does BAT"
        " help? Each verdict below follows from its numbers by the rule beside it; undecided means"
        " that the numbers show neither.",
        facts={**known, "Robust accuracy": f"under {' and '.join(attacks)}"},
        sections=(
            _verdicts(summary),
            Section("Regime", _paragraphs(summary, "regime")),
            _curves(summary),
            _removal(summary),
            _methods(summary),
            *_variants(summary),
            *_design(summary),
            *_memorized(folder, config),
        ),
        details={
            "The whole config": json.dumps(config, indent=2),
            "All numbers": json.dumps(summary, indent=2),
        },
    )


def _verdicts(summary: Summary) -> Section:
    rows = tuple(
        (claim["statement"], claim["verdict"], claim.get("detectable", ""))
        for claim in summary["claims"]
    )
    text = [
        "Intervals are 95 % Student's t intervals over seeds; a verdict requires the whole interval"
        f" on one side of 0 and at least {FEWEST_SEEDS} seeds. Where it is undecided, the last"
        " column has the true differences, in points, that this many seeds with this spread detect"
        f" with a probability of {100 * power.POWER:.0f} %."
    ]
    if any(claim.get("settled") for claim in summary["claims"]):
        text.append(
            "Seeds are added at looks that were declared beforehand. A difference is settled at the"
            " first look where its interval, at the level of 5 % over the number of looks, lies on"
            " one side of 0; differences that are open may be settled by further seeds. The 95 %"
            " intervals below are those of a single look."
        )
    if not summary["regime"]["holds"]:
        text.append(
            "The regime check failed: adversarial training did not fit its training set as well as"
            " the rule requires, or left no gap. Atypical samples may be memorized too little, so"
            " the verdicts below are weak evidence on the paper's findings, however they fall."
        )
    if summary["at_chance"]:
        text.append(
            f"Hardly trained: the best state of {', '.join(summary['at_chance'])} has less than"
            f" twice chance accuracy on clean {tested(summary)}. Means and intervals of such a"
            " method reflect that failure, not how the method does where it trains."
        )
    if AUTOATTACK.key not in summary["attacks"]["methods"].values():
        text.append(
            "No run was evaluated with AutoAttack: these numbers do not establish robustness."
        )
    elif not is_standard(summary.get("autoattack", ())):
        text.append(
            f"AutoAttack ran {', '.join(summary['autoattack'])} alone: without its other"
            " standard attacks, these numbers do not establish robustness."
        )
    return Section(
        "In short", tuple(text), (Table("Findings.", ("finding", "verdict", "detectable"), rows),)
    )


def _paragraphs(summary: Summary, name: str) -> tuple[str, ...]:
    """Returns the paragraphs of the claims of that name, then their rules."""
    paragraphs: list[str] = []
    rules: list[str] = []
    for claim in summary["claims"]:
        if claim["name"].partition(",")[0] == name:
            paragraphs.append(
                f"{claim['verdict'].capitalize()}: {claim['statement']} {claim['numbers']}"
                + (f" Looks: {claim['settled']}." if claim.get("settled") else "")
            )
            if claim["rule"] not in rules:
                rules.append(claim["rule"])
    if not summary["regime"]["holds"] and name != "regime":
        paragraphs.append("Read this with the failed regime check in mind.")
    return (*paragraphs, *(f"Rule: {rule}" for rule in rules))


def _curves(summary: Summary) -> Section:
    charts, rows = [], []
    attack = summary["attacks"]["tracked"]
    for method, curves in summary["curves"].items():
        charts += [
            findings_charts.by_epoch(method, part, curves, attack, tested=tested(summary))
            for part in ("train", "test")
            if any(f"{part}_{group}" in curves for group in GROUPS)
        ]
        gains = summary["gains"][method]
        for group in GROUPS:
            if group in gains:
                rows.append(
                    (
                        f"{method}, {group}",
                        f"{gains['from_epoch']:g} to {gains['to_epoch']:g}",
                        points(gains["memorized"]),
                        points(gains[group]["clean"]),
                        points(gains[group][attack]),
                    )
                )
    gained = Table(
        f"Gains on {tested(summary)} while atypical training images are memorized, in points.",
        (
            f"method, {tested(summary)}",
            "epochs",
            "atypical training",
            "clean",
            measure_title(summary, attack),
        ),
        tuple(rows),
    )
    text = _paragraphs(summary, "a")
    return Section("(a) Memorization by epoch", text, (gained,), tuple(charts))


def _removal(summary: Summary) -> Section:
    attacks = summary["attacks"]["removal"]
    rows = []
    for row in (*summary["removal"], *summary.get("harmful", ())):
        kinds = f" harmful minus {row['against']}" if "against" in row else ""
        for group in ("all", *GROUPS):
            if group in row:
                rows.append(
                    (
                        f"{100 * row['part']:g} %{kinds} removed ({row['removed']}),"
                        f" {row['state']}, {group}",
                        points(row[group]["clean"]),
                        points(row[group][attacks[row["state"]]]),
                    )
                )
    differences = Table(
        "Accuracy without atypical training images minus accuracy without equally many random"
        " ones, in points."
        + (
            " Harmful images are those of the most negative influence under attack on other typical"
            f" {tested(summary)} than these; percentages are of the atypical ones."
            if summary.get("harmful")
            else ""
        ),
        (f"removal, checkpoint, {tested(summary)}", "clean", _robust(summary)),
        tuple(rows),
    )
    arms = [name for name in summary["accuracies"] if name == "pgd_at" or is_removal(name)]
    charts = tuple(
        findings_charts.by_typicality(
            summary, arms, measure, "last", f"removal_{name}", "Removal from PGD-AT"
        )
        for name, measure in (("clean", CLEAN.key), ("robust", attacks["last"]))
        if arms
    )
    return Section("(b) Removal", _paragraphs(summary, "b"), (differences,), charts)


def _methods(summary: Summary) -> Section:
    attacks = summary["attacks"]["methods"]
    methods = compared_arms(summary)
    text = (
        *_paragraphs(summary, "c"),
        "Two tests answer two questions. McNemar's test within a seed: do these two trained models"
        " differ on these images? It uses all images that a training run was tested on. The paired"
        " t test over seeds: would the methods differ in another training run too? The verdict"
        " rests on the second; its p values are those of a single look, adjusted by Holm's method"
        " for all rows of a checkpoint and both measures.",
        *sampled(summary),
    )
    return Section(
        "(c) BAT and the others",
        text,
        (accuracy_table(summary, methods), pair_table(summary, "methods")),
        (
            findings_charts.trade_off(summary, methods, attacks["best"], "best"),
            findings_charts.trade_off(summary, methods, attacks["last"], "last"),
            findings_charts.by_typicality(
                summary, methods, attacks["best"], "best", "methods_robust", "Methods"
            ),
            findings_charts.by_typicality(
                summary, methods, "clean", "best", "methods_clean", "Methods"
            ),
        ),
    )


def sampled(summary: Summary) -> list[str]:
    """Returns a sentence on the samples that AutoAttack's last attacks were run on, if any."""
    if "sampled" not in summary:
        return []
    found = summary["sampled"]
    return [
        f"AutoAttack is sampled: {' and '.join(found['attacks'])} were run on {found['drawn']:,} of"
        f" the {found['images']:,} images, of all runs together, that withstood the attacks before,"
        f" and broke {found['broken']:,}. Its accuracies are estimates; the 95 % interval of a run"
        f" on its {tested(summary)} is at most {100 * found['widest']:.1f} points wide. McNemar's"
        " test needs verdicts on all images, and is left out."
    ]


def compared_arms(summary: Summary) -> list[str]:
    """Returns the arms that (c) compares, `bat` first."""
    pairs = ((row["against"], row.get("ours", "bat")) for row in summary["methods"])
    return list(dict.fromkeys(("bat", *(arm for pair in pairs for arm in pair))))


def _variants(summary: Summary) -> list[Section]:
    """Returns the ablation, if there are variants of BAT."""
    if not summary["variants"]:
        return []
    attacks = summary["attacks"]["variants"]
    arms = ["bat", *dict.fromkeys(row["against"] for row in summary["variants"])]
    text = (
        "Variants of BAT, all else equal: its weight alone, its discrimination loss alone and other"
        " options.",
    )
    tables = accuracy_table(summary, arms), pair_table(summary, "variants")
    chart = findings_charts.trade_off(summary, arms, attacks["best"], "best", "ablation")
    return [Section("Ablation of BAT", text, tables, (chart,))]


def _design(summary: Summary) -> list[Section]:
    """Returns the designed search, if there was one."""
    if "design" not in summary:
        return []
    found, rows = summary["design"], []
    measures = ("score", CLEAN.key, found["attack"])
    for name, (first, second) in found["factors"].items():
        cells = []
        for measure in measures:
            effect, median = found["effects"][measure][name], found["medians"][measure][name]
            low, high = effect["interval"]
            cells.append(
                f"{effect['mean']:+.1f} ({low:+.1f} to {high:+.1f}); {100 * median:+.1f} points"
            )
        chosen = str(found["winner"][name])
        rows.append((f"{name}: {second} for {first}", *cells, chosen))
    text = (
        "Twenty-four variants vary all options at once (Plackett and Burman's design with its"
        " fold-over). The score is the mean of clean and robust accuracy of the last checkpoint."
        " Each seed ranks its variants from 1, the worst, to 24, so that one that does not train"
        " counts as the last and no more.",
        "Rule: an option takes its second level if the whole interval of its effect on the place"
        " by score lies above 0, and keeps its default otherwise.",
    )
    table = Table(
        "Effect of each option's second level: mean difference in places and 95 % interval;"
        " difference of the medians of all variants and seeds in points.",
        (
            "option",
            "by score",
            "by clean",
            f"by {measure_title(summary, found['attack'])}",
            "chosen",
        ),
        tuple(rows),
    )
    return [Section("Search among the options of BAT", text, (table,))]


def accuracy_table(summary: Summary, arms: Sequence[str]) -> Table:
    """Returns every accuracy of some arms: on all, typical and atypical test images."""
    found = summary["accuracies"]
    measures = list(dict.fromkeys(m for arm in arms for s in STATES for m in found[arm][s]["all"]))
    rows = []
    for state in STATES:
        for arm in arms:
            for group in ("all", *GROUPS):
                measured = found[arm][state].get(group)
                if measured:
                    cells = [over(measured[m]) if m in measured else "not run" for m in measures]
                    rows.append(
                        (f"{arm}, {state}, {group}", f"{measured['clean']['images']:,}", *cells)
                    )
    return Table(
        f"Accuracy in percent, mean and 95 % interval over seeds; n {tested(summary)} per seed.",
        (
            f"run, checkpoint, {tested(summary)}",
            "n",
            *(measure_title(summary, m) for m in measures),
        ),
        tuple(rows),
    )


def pair_table(summary: Summary, part: str) -> Table:
    """Returns the differences of runs of BAT and the `methods` or `variants`, with their tests."""
    cells = []
    for row in summary[part]:
        for measure in (CLEAN.key, summary["attacks"][part][row["state"]]):
            test = row[measure]
            within = "; ".join(
                f"{one['only_first']}:{one['only_second']}, p = {one['p_value']:.2g}"
                for one in test.get("mcnemar", ())
            )
            adjusted = f"{test['p_holm']:.2g}" if "p_holm" in test else "one seed"
            ours = f"{row['ours']} minus " if "ours" in row else ""
            name = f"{ours}{row['against']}, {row['state']}, {measure_title(summary, measure)}"
            cells.append((name, points(test), adjusted, within or "not tested"))
    return Table(
        "BAT minus each other arm, in points, with tests. McNemar, for each seed: images correct"
        " under BAT alone : images correct under the other alone.",
        ("against", "difference", "p over seeds (Holm)", "McNemar within each seed"),
        tuple(cells),
    )


def _robust(summary: Summary) -> str:
    """Returns the heading of the column of robust accuracies of removals: the attacks."""
    attacks = summary["attacks"]["removal"]
    names = {state: measure_title(summary, attack) for state, attack in attacks.items()}
    if len(set(names.values())) == 1:
        return names["best"]
    return ", ".join(f"{name} ({state})" for state, name in names.items())


def _memorized(folder: AnyPath, config: Mapping[str, Any]) -> list[Section]:
    charts = pictures.of_run(folder / "runs" / f"bat-seed{config['findings']['seeds'][0]}")
    return [Section("Pictures", charts=tuple(charts))] if charts else []
