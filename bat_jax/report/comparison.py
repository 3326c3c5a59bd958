"""Compares several finished runs side by side."""

import itertools
from collections.abc import Sequence

import numpy as np

from bat_jax import methods
from bat_jax.errors import UserError
from bat_jax.evaluation import runs
from bat_jax.evaluation.records import ALL, AUTOATTACK, CLEAN, GROUPS, Evaluation, Measure
from bat_jax.evaluation.runs import Run
from bat_jax.evaluation.statistics import mcnemar
from bat_jax.report import charts
from bat_jax.report.page import Page, Section, Table, write
from bat_jax.runtime.plain import differences
from bat_jax.runtime.storage import AnyPath, as_path


def compare(folders: Sequence[str | AnyPath], output: str | AnyPath) -> AnyPath:
    """Writes `report.html` and `figures/` that compare finished runs; returns the page's path.

    Args:
      folders: the runs' folders; the first run is compared with each other one, image by image.
      output: the folder to write to.

    Raises:
      UserError: a folder holds no finished run or is named twice, or fewer than two are given.
    """
    if len(folders) < 2:
        raise UserError(f"compare: got {len(folders)} run(s); expected two or more")
    found = [runs.read(folder) for folder in folders]
    places = [run.folder for run in found]
    different(places)
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
    together = [charts.trade_off(found, names), charts.typicality(found, names)]
    return Page(
        title="Comparison: " + ", ".join(names),
        summary=f"{len(found)} finished runs side by side, each number with its 95 % interval.",
        facts={
            name: f"{run.config['objective']['name']}"
            f"{methods.options_title(run.config['objective'])} on {run.config['data']['name']},"
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
            row.append(f"{value}{test.note(measure)}" if value else "not measured")
        rows.append(tuple(row))
    header = [measure.title + (f", {group}" if group else "") for group, measure in columns]
    return Table(
        f"Accuracy in percent on the {charts.tested(*found)}; 95 % Wilson intervals.",
        ("run, checkpoint", "n", *header),
        tuple(rows),
    )


def _pairs(found: Sequence[Run], names: Sequence[str], attack: Measure) -> list[Section]:
    """Returns McNemar's tests of the first run against each other one, on their common images."""
    rows = []
    apart = []
    first = found[0]
    for run, name in zip(found[1:], names[1:], strict=True):
        if run.about["data"]["test"] != first.about["data"]["test"]:
            continue
        state = next((state for state in first.states if state in run.states), None)
        if state is None:
            continue
        _, ours, theirs = np.intersect1d(
            first.examples["ids"], run.examples["ids"], return_indices=True
        )
        if not len(ours):
            apart.append(f"{name} and {names[0]} have no common test images.")
            continue
        for measure in dict.fromkeys((CLEAN, attack)):
            if not all(_is_known(one.evaluations[state], measure) for one in (first, run)):
                continue
            key = f"{state}_{measure.key}"
            test = mcnemar(first.examples[key][ours], run.examples[key][theirs])
            rows.append(
                (
                    f"{name}, {state}, {measure.title}",
                    f"{len(ours):,}",
                    str(test.only_first),
                    str(test.only_second),
                    f"{100 * (test.only_first - test.only_second) / len(ours):+.1f}",
                    f"{test.p_value:.3g}",
                )
            )
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


def _is_known(test: Evaluation, measure: Measure) -> bool:
    """Returns whether every image has a verdict under a measure, none of them an estimate."""
    return measure in test.all and not test.note(measure)


def _settings(found: Sequence[Run], names: Sequence[str]) -> list[Section]:
    """Returns a table of the config fields that differ."""
    fields: list[str] = []
    for run, other in itertools.pairwise(found):
        fields += [row.partition(":")[0] for row in differences(run.config, other.config)]
    rows = [
        (field, *(_field(run, field) for run in found)) for field in sorted(dict.fromkeys(fields))
    ]
    if not rows:
        return []
    caption = "Config fields that differ."
    return [Section("Settings", tables=(Table(caption, ("field", *names), tuple(rows)),))]


def _field(run: Run, field: str) -> str:
    value = run.config
    for part in field.split("."):
        value = value.get(part, {}) if hasattr(value, "get") else {}
    return "" if value == {} else str(value)
