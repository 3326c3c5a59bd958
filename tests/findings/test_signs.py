"""Gains, the regime and differences have the signs that made-up and published runs give by hand."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bat_jax.evaluation.records import STATES
from bat_jax.evaluation.runs import Run
from bat_jax.findings.claims import claims
from bat_jax.findings.differences import compared, removed
from bat_jax.findings.removal import Removal
from bat_jax.findings.results import read_results
from bat_jax.findings.summary import _gains, _regime

RESULTS = Path(__file__).parents[2] / "docs" / "results"
EPOCHS = (2, 4, 6, 8)
# Fewer images are tracked, equally many of either kind, than there are.
SIZES = {"train_typical": 900, "train_atypical": 100, "test_typical": 300, "test_atypical": 100}
TRACKED = 50
ATTACK = "pgd20"

# By set and measure, the accuracies of three seeds at each epoch.
CURVES = {
    "train_typical": {
        "clean": [[0.5, 1.0, 1.0, 1.0]] * 3,
        ATTACK: [[0.4, 0.6, 0.8, 0.99], [0.4, 0.6, 0.8, 0.98], [0.4, 0.6, 0.8, 1.0]],
    },
    "train_atypical": {
        # The mean passes halfway at epoch 4 when clean, at epoch 6 under attack.
        "clean": [[0.2, 0.9, 0.96, 1.0], [0.1, 0.9, 0.94, 1.0], [0.3, 0.9, 0.95, 1.0]],
        # The last seed alone would be halfway at epoch 4.
        ATTACK: [[0.1, 0.2, 0.6, 0.8], [0.1, 0.3, 0.7, 0.9], [0.1, 0.6, 0.7, 0.85]],
    },
    "test_typical": {
        "clean": [[0.5, 0.7, 0.8, 0.85], [0.5, 0.7, 0.8, 0.84], [0.5, 0.7, 0.8, 0.83]],
        ATTACK: [[0.5, 0.6, 0.8, 0.7], [0.5, 0.6, 0.8, 0.72], [0.5, 0.6, 0.8, 0.74]],
    },
    "test_atypical": {
        "clean": [[0.2, 0.3, 0.4, 0.6], [0.2, 0.25, 0.4, 0.62], [0.1, 0.35, 0.4, 0.58]],
        ATTACK: [[0.1, 0.3, 0.3, 0.27], [0.1, 0.3, 0.32, 0.33], [0.1, 0.3, 0.28, 0.3]],
    },
}


def runs(curves=CURVES, *, method="pgd_at", tested=None, examples=None):
    """Returns three runs.

    Args:
      curves: by set and measure, the accuracies of every seed at each epoch.
      method: that trained them.
      tested: by seed, the results of every state.
      examples: by seed.
    """
    records = [
        tuple(
            {
                "split": name,
                "epoch": epoch,
                "n": TRACKED,
                "of": SIZES[name],
                **{measure: of_seed[seed][place] for measure, of_seed in measures.items()},
            }
            for name, measures in curves.items()
            for place, epoch in enumerate(EPOCHS)
        )
        for seed in range(3)
    ]
    config = {"objective": {"name": method}}
    return [
        Run(
            Path(f"{method}-seed{seed}"),
            config,
            {},
            {} if tested is None else tested[seed],
            records[seed],
            {} if examples is None else examples[seed],
        )
        for seed in range(3)
    ]


def test_gains_are_the_last_record_minus_the_one_halfway():
    found = _gains(runs(), ATTACK, ())
    assert (found["from_epoch"], found["to_epoch"]) == (6.0, 8.0)
    assert found["trained_on"] == ATTACK
    assert found["memorized"]["values"] == pytest.approx([0.2, 0.2, 0.15])
    expected = {
        "atypical": {
            "clean": [0.2, 0.22, 0.18],
            ATTACK: [-0.03, 0.01, 0.02],
            "clean_minus_robust": [0.23, 0.21, 0.16],
        },
        "typical": {
            "clean": [0.05, 0.04, 0.03],
            ATTACK: [-0.1, -0.08, -0.06],
            "clean_minus_robust": [0.15, 0.12, 0.09],
        },
    }
    for group, measures in expected.items():
        assert set(found[group]) == set(measures)
        for measure, values in measures.items():
            assert found[group][measure]["values"] == pytest.approx(values)
            assert found[group][measure]["mean"] == pytest.approx(np.mean(values))


def test_a_method_that_trains_on_clean_images_memorizes_them():
    found = _gains(runs(method="standard"), ATTACK, ())
    assert found["trained_on"] == "clean"
    assert (found["from_epoch"], found["to_epoch"]) == (4.0, 8.0)
    assert found["memorized"]["values"] == pytest.approx([0.1, 0.1, 0.1])
    assert found["atypical"]["clean"]["values"] == pytest.approx([0.3, 0.37, 0.23])
    assert found["atypical"][ATTACK]["values"] == pytest.approx([-0.03, 0.03, 0.0])


def regime(**last):
    """Returns the regime of runs with the given last accuracies under attack, by set."""
    curves = {name: dict(measures) for name, measures in CURVES.items()}
    for name, values in last.items():
        curves[name][ATTACK] = [[*curves[name][ATTACK][0][:-1], value] for value in values]
    return _regime(runs(curves), ATTACK, 0.95)


def test_the_regime_holds_where_training_images_are_fitted_and_test_images_are_not():
    found = regime()
    # 900 typical and 100 atypical training images; 300 and 100 of the test.
    train, test = [0.971, 0.972, 0.985], [0.5925, 0.6225, 0.63]
    assert found["train"]["values"] == pytest.approx(train)
    assert found["test"]["values"] == pytest.approx(test)
    assert found["gap"]["values"] == pytest.approx(np.subtract(train, test))
    assert found["gap"]["mean"] == pytest.approx(0.361)
    assert (found["attack"], found["bound"]) == (ATTACK, 0.95)
    assert found["fits"] is found["has_gap"] is found["holds"] is True


def test_the_regime_fails_where_training_images_are_not_fitted_under_attack():
    # Clean accuracy on all of them is 100 %.
    found = regime(train_typical=[0.9, 0.91, 0.92])
    assert found["train"]["values"] == pytest.approx([0.89, 0.909, 0.913])
    assert (found["fits"], found["has_gap"], found["holds"]) == (False, True, False)


@pytest.mark.parametrize("test", [[0.9, 1.0, 1.0], [0.999, 0.999, 0.999]])
def test_the_regime_fails_without_a_gap_above_0(test):
    found = regime(test_typical=test, test_atypical=test)
    assert found["gap"]["values"] == pytest.approx(np.subtract([0.971, 0.972, 0.985], test))
    assert (found["fits"], found["has_gap"], found["holds"]) == (True, False, False)


def evaluated(numbers):
    """Returns the results of three seeds.

    Args:
      numbers: by state, by group and measure, the accuracies of the seeds or that of all.
    """

    def accuracy(value, seed):
        return {"accuracy": np.broadcast_to(value, 3)[seed], "n": 200, "interval": [0.0, 1.0]}

    def of_seed(seed, groups):
        found = {
            group: {measure: accuracy(value, seed) for measure, value in measures.items()}
            for group, measures in groups.items()
        }
        return {"test": {**found.pop("all"), **found}}

    return [
        {state: of_seed(seed, groups) for state, groups in numbers.items()} for seed in range(3)
    ]


WITHOUT = {
    "best": {
        "all": {"clean": 0.8, ATTACK: 0.4},
        "typical": {"clean": 0.7, ATTACK: 0.3},
        "atypical": {"clean": 0.2, ATTACK: 0.1},
    },
    "last": {
        "all": {"clean": 0.81, ATTACK: 0.44},
        "typical": {"clean": 0.85, ATTACK: [0.6, 0.61, 0.59]},
        "atypical": {"clean": 0.3, ATTACK: 0.15},
    },
}
CONTROL = {
    "best": {
        "all": {"clean": 0.7, ATTACK: 0.45},
        "typical": {"clean": 0.73, ATTACK: 0.35},
        "atypical": {"clean": 0.25, ATTACK: 0.08},
    },
    "last": {
        "all": {"clean": 0.82, ATTACK: 0.4},
        "typical": {"clean": 0.87, ATTACK: [0.5, 0.5, 0.5]},
        "atypical": {"clean": 0.5, ATTACK: 0.2},
    },
}


def removals(without, control, *, harmful):
    """Returns what `removed` finds if all controls are equally good."""
    kinds = ("harmful", "merely-atypical", "balanced") if harmful else ("atypical", "random")
    arms = {
        f"pgd_at-without-50%-{kind}": runs({}, tested=evaluated(control if place else without))
        for place, kind in enumerate(kinds)
    }
    sizes = dict.fromkeys(arms, 7)
    planned = [Removal(0.5, kinds[0], other) for other in kinds[1:]]
    return removed(arms, sizes, planned, dict.fromkeys(STATES, ATTACK), ())


def values_of(row):
    """Returns the differences of a removal by group and measure."""
    return {
        (group, measure): value["values"]
        for group in ("all", "typical", "atypical")
        for measure, value in row[group].items()
    }


@pytest.mark.parametrize("harmful", [False, True])
def test_a_removal_is_the_accuracy_without_the_images_minus_that_of_the_control(harmful):
    found = removals(WITHOUT, CONTROL, harmful=harmful)
    rows = found["harmful" if harmful else "removal"]
    assert found["removal"] == (rows if not harmful else [])
    controls = ("merely-atypical", "balanced") if harmful else ("random",)
    assert [row.get("against", "random") for row in rows] == [c for c in controls for _ in STATES]
    expected = {
        "best": {
            ("all", "clean"): [0.1] * 3,
            ("all", ATTACK): [-0.05] * 3,
            ("typical", "clean"): [-0.03] * 3,
            ("typical", ATTACK): [-0.05] * 3,
            ("atypical", "clean"): [-0.05] * 3,
            ("atypical", ATTACK): [0.02] * 3,
        },
        "last": {
            ("all", "clean"): [-0.01] * 3,
            ("all", ATTACK): [0.04] * 3,
            ("typical", "clean"): [-0.02] * 3,
            ("typical", ATTACK): [0.1, 0.11, 0.09],
            ("atypical", "clean"): [-0.2] * 3,
            ("atypical", ATTACK): [-0.05] * 3,
        },
    }
    for row, state in zip(rows, STATES * len(controls), strict=True):
        assert (row["part"], row["state"], row["removed"]) == (0.5, state, 7)
        differences = values_of(row)
        assert set(differences) == set(expected[state])
        for key, values in expected[state].items():
            assert differences[key] == pytest.approx(values), key


def of_method(numbers, correct):
    """Returns the runs of a method, and whether each of two images is classified correctly."""
    verdicts = {f"{state}_{measure}": correct for state in STATES for measure in ("clean", ATTACK)}
    examples = [{"ids": np.arange(2), **verdicts}] * 3
    return runs({}, tested=evaluated(numbers), examples=examples)


def test_a_comparison_is_the_first_method_minus_the_second():
    arms = {
        "bat": of_method(WITHOUT, np.array([True, True])),
        "pgd_at": of_method(CONTROL, np.array([True, False])),
    }
    (row,) = compared(arms, "bat", ["pgd_at"], "last", ATTACK, ())
    assert row["clean"]["values"] == pytest.approx([-0.01] * 3)
    assert row[ATTACK]["values"] == pytest.approx([0.04] * 3)
    for test in row[ATTACK]["mcnemar"]:
        assert (test["only_first"], test["only_second"], test["images"]) == (1, 0, 2)
    (row,) = compared(arms, "pgd_at", ["bat"], "best", ATTACK, ())
    assert row["clean"]["values"] == pytest.approx([-0.1] * 3)
    assert row[ATTACK]["values"] == pytest.approx([0.05] * 3)


def verdicts(*, curves=CURVES, without=WITHOUT, control=CONTROL):
    """Returns the verdicts on the regime, (a), and (b) at the last checkpoint."""
    found = {
        "attacks": {"tracked": ATTACK, "removal": dict.fromkeys(STATES, ATTACK)},
        "regime": _regime(runs(curves), ATTACK, 0.95),
        "gains": {"pgd_at": _gains(runs(curves), ATTACK, ())},
        **removals(without, control, harmful=False),
    }
    found["attacks"]["methods"] = found["attacks"]["removal"]
    of = {claim.name: claim.verdict for claim in claims({**found, "methods": []})}
    return of["regime"], of["a"], of["b, 50 % removed, last"]


def test_verdicts_are_supported_and_refuted_by_runs_of_either_sign():
    assert verdicts() == ("supported", "supported", "supported")
    exchanged = {
        name: {"clean": measures[ATTACK], ATTACK: measures["clean"]}
        if name == "test_atypical"
        else measures
        for name, measures in CURVES.items()
    }
    swapped = verdicts(curves=exchanged, without=CONTROL, control=WITHOUT)
    assert swapped == ("supported", "refuted", "refuted")


def archived(name):
    """Returns the config of published findings, and by run its records and its results."""
    found = {}
    with tarfile.open(RESULTS / f"{name}_findings_runs.tar.xz") as archive:
        for member in archive:
            file = Path(member.name)
            if file == Path("config.json"):
                config = json.load(archive.extractfile(member))["config"]
            if file.parts[0] == "runs" and file.name in ("metrics.jsonl", "results.json"):
                lines = archive.extractfile(member).read().splitlines()
                text = b"[%s]" % b",".join(lines) if file.suffix == ".jsonl" else b"".join(lines)
                found.setdefault(file.parts[1], {})[file.name] = json.loads(text)
    return config["findings"], found


def signs(values, looks):
    """Returns the sign that the first look with an interval beside 0 gives, else 0."""
    for seeds in looks:
        if seeds <= len(values):
            level = 1 - 0.05 / len(looks)
            low, high = stats.ttest_1samp(values[:seeds], 0).confidence_interval(level)
            if low > 0 or high < 0:
                return 1 if low > 0 else -1
    return 0


def verdict_of(*found):
    if min(found) < 0:
        return "refuted"
    return "supported" if min(found) > 0 else "undecided"


@pytest.mark.parametrize("name", ["cifar100", "fashion_mnist", "tiny_imagenet"])
def test_published_verdicts_have_the_signs_of_the_runs_beside_them(name):
    settings, found = archived(name)
    seeds, looks = settings["seeds"], settings["looks"]
    published = read_results(RESULTS / f"{name}_findings.json")
    seeds = seeds[: len(published["gains"]["pgd_at"]["atypical"]["clean"]["values"])]

    def record(seed, part, epoch):
        rows = found[f"pgd_at-seed{seed}"]["metrics.jsonl"]
        return next(row for row in rows if row["split"] == part and row["epoch"] == epoch)

    def test(arm, state, group, key):
        rows = [found[f"{arm}-seed{seed}"]["results.json"][state]["test"] for seed in seeds]
        return np.array([(row[group] if group else row)[key]["accuracy"] for row in rows])

    gains, attack = published["gains"]["pgd_at"], published["attacks"]["tracked"]
    first, last = (
        [record(seed, "test_atypical", gains[end]) for seed in seeds]
        for end in ("from_epoch", "to_epoch")
    )
    clean, robust = (
        np.array([now[key] - then[key] for then, now in zip(first, last, strict=True)])
        for key in ("clean", attack)
    )
    assert gains["atypical"]["clean"]["values"] == pytest.approx(clean)
    assert gains["atypical"]["clean_minus_robust"]["values"] == pytest.approx(clean - robust)
    expected = {"a": verdict_of(signs(clean, looks), signs(clean - robust, looks))}

    reached = []
    for part in ("train", "test"):
        groups = [
            [record(seed, f"{part}_{group}", gains["to_epoch"]) for seed in seeds]
            for group in ("typical", "atypical")
        ]
        accuracies, sizes = (
            np.array([[row[key] for row in rows] for rows in groups]) for key in (attack, "of")
        )
        reached.append(np.average(accuracies, axis=0, weights=sizes))
        assert published["regime"][part]["values"] == pytest.approx(reached[-1])
    gap = np.subtract(*reached)
    assert published["regime"]["gap"]["values"] == pytest.approx(gap)
    # The regime is checked at 5 % whatever the looks.
    holds = reached[0].mean() >= settings["regime"] and signs(gap, [len(gap)]) > 0
    expected["regime"] = "supported" if holds else "refuted"

    for row in (*published["removal"], *published.get("harmful", ())):
        part, other = f"{100 * row['part']:g} %", row.get("against")
        kinds = ("atypical", "random") if other is None else ("harmful", other)
        key = published["attacks"]["removal"][row["state"]]
        without, control = (
            test(f"pgd_at-without-{part.replace(' ', '')}-{kind}", row["state"], "typical", key)
            for kind in kinds
        )
        assert row["typical"][key]["values"] == pytest.approx(without - control)
        others = {None: "removed", "balanced": "harmful, random"}
        about = others.get(other, "harmful, merely atypical")
        of = f"b, {part} {about}, {row['state']}"
        expected[of] = verdict_of(signs(without - control, looks))

    for row in published["methods"]:
        for key in ("clean", published["attacks"]["methods"][row["state"]]):
            ours, theirs = (
                test(arm, row["state"], "", key) for arm in (row.get("ours", "bat"), row["against"])
            )
            assert row[key]["values"] == pytest.approx(ours - theirs)

    for claimed in (
        {claim["name"]: claim["verdict"] for claim in published["claims"]},
        {claim.name: claim.verdict for claim in claims(published)},
    ):
        assert {of: claimed[of] for of in claimed if not of.startswith("c, ")} == expected
