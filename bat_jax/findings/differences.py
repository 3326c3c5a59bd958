"""Paired differences of finished runs: without some training images, and between methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bat_jax.evaluation.records import ALL, CLEAN, GROUPS, STATES, Accuracy, Measure
from bat_jax.evaluation.runs import Run
from bat_jax.evaluation.statistics import holm, mcnemar
from bat_jax.findings.looks import over_looks
from bat_jax.findings.removal import Removal
from bat_jax.methods import has_attack

# The runs of each arm, in order of seeds.
Arms = Mapping[str, Sequence[Run]]


def removed(
    arms: Arms,
    sizes: Mapping[str, int],
    planned: Sequence[Removal],
    strongest: Mapping[str, str],
    looks: Sequence[int],
) -> dict[str, Any]:
    """Returns the rows of `removal`, and of `harmful` if harmful images were removed.

    Args:
      arms: the finished runs.
      sizes: by arm, how many training images it leaves out.
      planned: the removals, each with its control.
      strongest: by state, the key of its strongest attack.
      looks: the declared numbers of seeds, or none.
    """
    found: dict[str, Any] = {"removal": []}
    for removal in planned:
        for state in STATES:
            row = _removal(arms, sizes, removal, state, strongest[state], looks)
            if removal.kind == "harmful":
                found.setdefault("harmful", []).append({**row, "against": removal.control})
            else:
                found["removal"].append(row)
    return found


def _removal(
    arms: Arms,
    sizes: Mapping[str, int],
    removal: Removal,
    state: str,
    attack: str,
    looks: Sequence[int],
) -> dict[str, Any]:
    """Returns accuracy without images of one kind minus accuracy without equally many others."""
    ours, theirs = removal.arms
    without, others = arms[ours], arms[theirs]
    found: dict[str, Any] = {"part": removal.part, "state": state, "removed": sizes[ours]}
    for group in ("all", *GROUPS):
        for measure in (CLEAN.key, attack):
            values = _differences(without, others, state, group, measure)
            if values:
                images = _tested(without[0], state, group, measure)
                value = over_looks(values, images=images, looks=looks)
                found.setdefault(group, {})[measure] = value
    return found


def _differences(
    ours: Sequence[Run], theirs: Sequence[Run], state: str, group: str, measure: str
) -> list[float]:
    """Returns one difference of accuracies per seed; none if the group is unknown."""
    values = []
    for one, other in zip(ours, theirs, strict=True):
        first, second = (_measured(run, state, group, measure) for run in (one, other))
        if first is None or second is None:
            return []
        values.append(first.accuracy - second.accuracy)
    return values


def _tested(run: Run, state: str, group: str, measure: str) -> int:
    found = _measured(run, state, group, measure)
    return found.n if found else 0


def _measured(run: Run, state: str, group: str, measure: str) -> Accuracy | None:
    """Returns the accuracy of a group, or of `all` images; None if the group is unknown."""
    accuracies = run.evaluations[state].groups.get(ALL if group == "all" else group)
    return None if accuracies is None else accuracies[Measure.parse(measure)]


def compared(
    arms: Arms,
    name: str,
    others: Sequence[str],
    state: str,
    attack: str,
    looks: Sequence[int],
) -> list[dict[str, Any]]:
    """Returns the tests of one arm against others: over seeds, and image by image within a seed.

    There is no test image by image where some images were not attacked by every attack.

    Args:
      arms: the finished runs.
      name: the arm.
      others: the arms to compare it with.
      state: the checkpoint, `best` or `last`.
      attack: the key of the attack.
      looks: the declared numbers of seeds, or none.
    """
    rows: list[dict[str, Any]] = []
    for other in others:
        row: dict[str, Any] = {
            "against": other,
            "state": state,
            "adversarial": has_attack(arms[other][0].config["objective"]["name"]),
        }
        if name != "bat":
            row["ours"] = name
        for measure in (CLEAN.key, attack):
            row[measure] = {
                **over_looks(
                    _differences(arms[name], arms[other], state, "all", measure),
                    images=_tested(arms[name][0], state, "all", measure),
                    looks=looks,
                ),
                **_within_seeds(arms[name], arms[other], state, measure),
            }
        rows.append(row)
    return rows


def adjust(rows: Sequence[Mapping[str, Any]]) -> None:
    """Gives comparisons `p_holm`, the p value over seeds adjusted by Holm's method.

    All comparisons of a checkpoint are adjusted together: those of every arm, in both measures.

    Args:
      rows: of one or several calls of `compared`, or read from results.json.
    """
    for state in STATES:
        found = [row for row in rows if row["state"] == state]
        tests = [one for row in found for one in row.values() if isinstance(one, dict)]
        tests = [test for test in tests if "p_value" in test]
        for test, adjusted in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
            test["p_holm"] = adjusted


def _within_seeds(
    ours: Sequence[Run], theirs: Sequence[Run], state: str, measure: str
) -> dict[str, Any]:
    """Returns the tests image by image, one per seed; nothing if verdicts are sampled."""
    parsed = Measure.parse(measure)
    if any(run.evaluations[state].is_estimate(parsed) for run in (*ours, *theirs)):
        return {}
    key = f"{state}_{measure}"
    tests = [_image_by_image(one, two, key) for one, two in zip(ours, theirs, strict=True)]
    return {"mcnemar": tests}


def _image_by_image(one: Run, other: Run, key: str) -> dict[str, Any]:
    """Returns McNemar's test of two runs on their common test images."""
    _, ours, theirs = np.intersect1d(
        one.examples["ids"], other.examples["ids"], return_indices=True
    )
    test = mcnemar(one.examples[key][ours], other.examples[key][theirs])
    return {**test._asdict(), "images": len(ours)}
