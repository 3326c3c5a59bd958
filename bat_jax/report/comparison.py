"""Compares several finished runs side by side."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bat_jax import methods
from bat_jax.errors import UserError
from bat_jax.evaluation import runs
from bat_jax.evaluation.records import (
    ALL,
    AUTOATTACK,
    CLEAN,
    GROUPS,
    WEIGHTS,
    Evaluation,
    Measure,
    is_standard,
)
from bat_jax.evaluation.runs import Run
from bat_jax.evaluation.statistics import mcnemar
from bat_jax.report import charts
from bat_jax.report.page import Page, Section, Table, write
from bat_jax.report.settings import whole
from bat_jax.runtime.plain import differences
from bat_jax.runtime.storage import AnyPath, as_path

# The config fields that apply to the weights of a file; the others describe a training that did
# not take place.
_OF_WEIGHTS = (
    *("attack.epsilon", "attack.norm", "evaluation.", "seed"),
    *("data.cache", "data.name", "data.path", "data.side"),
    *("memorization.estimates", "memorization.threshold"),
    *("model.", "parallel.", "programs."),
)


def compare(folders: Sequence[str | AnyPath], output: str | AnyPath) -> AnyPath:
    """Writes `report.html` and `figures/` that compare finished runs; returns the page's path.

    Args:
      folders: the runs' folders; the first run is compared with each other one, image by image.
      output: the folder to write to.

    Raises:
      UserError: a folder holds no finished run or is named twice, fewer than two are given, or the
        output is one of them.
    """
    if len(folders) < 2:
        raise UserError(f"compare: got {len(folders)} run(s); expected two or more")
    found = [runs.read(folder) for folder in folders]
    places = [run.folder for run in found]
    different(places)
    if as_path(output).resolve() in [place.resolve() for place in places]:
        raise UserError(f"{output}: is a run itself; expected another folder for the comparison")
    return write(_page(found, names_of(places)), as_path(output))


def different(folders: Sequence[AnyPath]) -> None:
    """Raises UserError if a folder is named twice."""
    places = [folder.resolve() for folder in folders]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{place}: is named twice; expected different runs to compare")


def names_of(folders: Sequence[AnyPath]) -> list[str]:
    """Returns the folders' names, with enough parent folders to distinguish them."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder.resolve()) for folder in folders]


def _page(found: Sequence[Run], names: Sequence[str]) -> Page:
    attack = charts.common_attack(found)
    text = _cautions(found, names, attack)
    together = [charts.trade_off(found, names), charts.typicality(found, names)]
    return Page(
        title="Comparison: " + ", ".join(names),
        summary=f"{len(found)} finished runs side by side, each number with its 95 % interval.",
        facts={
            name: f"{_what(run)} on {run.config['data']['name']},"
            f" {run.config['attack']['norm'].capitalize()}"
            f" {run.config['attack']['epsilon']:.4g}, seed {run.config['seed']}"
            for run, name in zip(found, names, strict=True)
        },
        sections=(
            Section(
                "Results",
                tuple(text),
                (_results(found, names, attack),),
                tuple(chart for chart in together if chart),
            ),
            *_pairs(found, names, attack),
            *_settings(found, names),
        ),
        details={},
    )


def _what(run: Run) -> str:
    """Returns the method of a run, or that its weights are those of a file."""
    if WEIGHTS in run.states:
        return charts.file_of(run)
    objective = run.config["objective"]
    return f"{objective['name']}{methods.options_title(objective)}"


def _cautions(found: Sequence[Run], names: Sequence[str], attack: Measure) -> list[str]:
    """Returns why the runs may not be comparable, and what their attacks do not show."""
    text = []
    sets = {(run.config["data"]["name"], run.about["data"]["test"]) for run in found}
    if len(sets) > 1:
        text.append("These runs have different test sets: their numbers are not comparable.")
    epsilons = {(run.config["attack"]["norm"], run.config["attack"]["epsilon"]) for run in found}
    if len(epsilons) > 1:
        text.append("These runs were attacked with different norms or epsilons.")
    if not attack.is_attack:
        text.append("The runs have no attack in common: robust accuracy is not compared.")
    elif attack != AUTOATTACK:
        text.append(
            "Not every run was evaluated with AutoAttack: robust accuracy here means"
            f" {attack.title}, which does not establish robustness."
        )
    text += _of_attacks(found, names)
    splits = {
        (run.config["memorization"]["threshold"], run.about["data"].get("estimates"))
        for run in found
        if any(group in run.evaluations[run.states[0]].groups for group in GROUPS)
    }
    if len(splits) > 1:
        text.append(
            "These runs split typical and atypical images differently, by other estimates or"
            " another threshold: their numbers on these groups are not comparable."
        )
    return text


def _of_attacks(found: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Returns which attacks AutoAttack ran, unless it ran the standard ones in every run."""
    attacks = {}
    for run, name in zip(found, names, strict=True):
        tests = [test for test in run.evaluations.values() if test.attacks]
        if tests:
            attacks[name] = tests[0].attacks
    ran = "; ".join(f"{name}: {', '.join(one)}" for name, one in attacks.items())
    if len(set(map(frozenset, attacks.values()))) > 1:
        return [f"AutoAttack ran different attacks: {ran}. Accuracies under it are not comparable."]
    if not all(map(is_standard, attacks.values())):
        return [
            f"AutoAttack did not run all its standard attacks ({ran}), so it does not establish"
            " robustness."
        ]
    return []


def _results(found: Sequence[Run], names: Sequence[str], attack: Measure) -> Table:
    tests = [
        (f"{name}, {state}", test)
        for run, name in zip(found, names, strict=True)
        for state, test in run.evaluations.items()
    ]
    of_all = dict.fromkeys((CLEAN, Measure.pgd(20), attack, AUTOATTACK))
    of_groups = dict.fromkeys((CLEAN, attack, AUTOATTACK))
    columns = [(ALL, measure) for measure in of_all]
    columns += [(group, measure) for group in GROUPS for measure in of_groups]
    columns = [
        (group, measure)
        for group, measure in columns
        if any(measure in test.groups.get(group, {}) for _, test in tests)
    ]
    rows = []
    for name, test in tests:
        row = [name, f"{test.all[CLEAN].n:,}"]
        for group, measure in columns:
            value = test.groups.get(group, {}).get(measure)
            row.append(_cell(test, group, measure) if value else "not measured")
        rows.append(tuple(row))
    header = [measure.title + (f", {group}" if group else "") for group, measure in columns]
    return Table(
        f"Accuracy in percent on the {charts.tested(*found)}; 95 % Wilson intervals."
        f"{charts.of_samples([test for _, test in tests])}",
        ("run, checkpoint", "n", *header),
        tuple(rows),
    )


def _cell(test: Evaluation, group: str, measure: Measure) -> str:
    """Returns an accuracy in words; those of a group have an n of their own."""
    value = test.groups[group][measure]
    return f"{value}{test.note(measure)}" + (f", n = {value.n:,}" if group else "")


def _pairs(found: Sequence[Run], names: Sequence[str], attack: Measure) -> list[Section]:
    """Returns McNemar's tests of the first run against each other one, on their common images."""
    rows = []
    apart = []
    first = found[0]
    for run, name in zip(found[1:], names[1:], strict=True):
        if run.about["data"]["test"] != first.about["data"]["test"]:
            continue
        if not np.isin(first.examples["ids"], run.examples["ids"]).any():
            apart.append(f"{name} and {names[0]} have no common test images.")
            continue
        rows += _tests(first, run, name, attack)
    if not rows:
        return [Section("Image by image", tuple(apart))] if apart else []
    table = Table(
        f"{names[0]} against each other run, image by image (exact McNemar test, two-sided).",
        (
            "run, checkpoint, attack",
            "n",
            f"correct only in {names[0]}",
            "correct only in this run",
            "difference (points)",
            "p",
        ),
        tuple(rows),
    )
    text = (
        "The test asks whether these two trained models differ on these images, not whether the"
        " methods would differ under another seed.",
        *apart,
    )
    return [Section("Image by image", text, (table,))]


def _tests(first: Run, other: Run, name: str, attack: Measure) -> list[tuple[str, ...]]:
    """Returns the rows of McNemar's tests of two runs on their common images."""
    _, ours, theirs = np.intersect1d(
        first.examples["ids"], other.examples["ids"], return_indices=True
    )
    state, state_of_other = _paired(first, other)
    against = "" if state == state_of_other else f" against {state}"
    rows: list[tuple[str, ...]] = []
    for measure in dict.fromkeys((CLEAN, attack)):
        tested = first.evaluations[state], other.evaluations[state_of_other]
        if not all(_is_known(one, measure) for one in tested):
            continue
        test = mcnemar(
            first.examples[f"{state}_{measure.key}"][ours],
            other.examples[f"{state_of_other}_{measure.key}"][theirs],
        )
        rows.append(
            (
                f"{name}, {state_of_other}{against}, {measure.title}",
                f"{len(ours):,}",
                str(test.only_first),
                str(test.only_second),
                f"{100 * (test.only_first - test.only_second) / len(ours):+.1f}",
                f"{test.p_value:.3g}",
            )
        )
    return rows


def _paired(first: Run, other: Run) -> tuple[str, str]:
    """Returns the states to compare: one that both runs have, or the first of each."""
    common = next((state for state in first.states if state in other.states), None)
    return (common, common) if common else (first.states[0], other.states[0])


def _is_known(test: Evaluation, measure: Measure) -> bool:
    """Returns whether every image has a verdict under a measure, none of them an estimate."""
    return measure in test.all and not test.is_estimate(measure)


def _settings(found: Sequence[Run], names: Sequence[str]) -> list[Section]:
    """Returns a table of the config fields that differ."""
    configs = [(run, whole(run)) for run in found]
    fields: set[str] = set()
    for (one, ours), (other, theirs) in itertools.combinations(configs, 2):
        changed = (row.partition(":")[0] for row in differences(ours, theirs))
        fields |= {field for field in changed if _is_set(one, field) and _is_set(other, field)}
    rows = [
        (field, *(_field(config, field) if _is_set(run, field) else "" for run, config in configs))
        for field in sorted(fields)
    ]
    if not rows:
        return []
    caption = "Config fields that differ."
    return [Section("Settings", tables=(Table(caption, ("field", *names), tuple(rows)),))]


def _is_set(run: Run, field: str) -> bool:
    """Returns whether a config field applies to a run; few apply to the weights of a file."""
    return WEIGHTS not in run.states or field.startswith(_OF_WEIGHTS)


def _field(config: Mapping[str, Any], field: str) -> str:
    value: Any = config
    for part in field.split("."):
        value = value.get(part, {}) if hasattr(value, "get") else {}
    return "" if value == {} else str(value)
