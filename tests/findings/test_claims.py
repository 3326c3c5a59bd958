"""Each rule's verdicts at made-up numbers on either side of its bound."""

from pathlib import Path

import numpy as np
import pytest

from bat_jax.evaluation.runs import Run
from bat_jax.evaluation.statistics import over_seeds
from bat_jax.findings.claims import claims, points, sign
from bat_jax.findings.summary import _is_at_chance, _sampled

UP, DOWN, FLAT = [0.02, 0.021, 0.019], [-0.02, -0.021, -0.019], [0.02, -0.02, 0.001]


def summary(*, clean=FLAT, robust=FLAT, typical=FLAT, gains=(FLAT, FLAT), train=0.97):
    seeds = over_seeds
    return {
        "attacks": {
            "methods": {"best": "autoattack", "last": "autoattack"},
            "removal": {"best": "pgd20", "last": "pgd20"},
            "tracked": "pgd10",
        },
        "regime": {
            "train": seeds([train] * 3),
            "test": seeds([0.7] * 3),
            "gap": seeds([0.27] * 3),
            "attack": "pgd10",
            "bound": 0.95,
            "holds": train >= 0.95,
        },
        "gains": {
            "pgd_at": {
                "from_epoch": 1,
                "to_epoch": 9,
                "atypical": {
                    "clean": seeds(gains[0]),
                    "pgd10": seeds(FLAT),
                    "clean_minus_robust": seeds(gains[1]),
                },
            }
        },
        "removal": [
            {
                "part": 1.0,
                "state": "last",
                "removed": 10,
                "typical": {"clean": seeds(FLAT), "pgd20": seeds(typical)},
            }
        ],
        "methods": [
            {"against": name, "state": state, "clean": seeds(clean), "autoattack": seeds(robust)}
            for state in ("best", "last")
            for name in ("standard", "pgd_at", "trades")
        ],
    }


def verdict(name, **numbers):
    return next(claim.verdict for claim in claims(summary(**numbers)) if claim.name == name)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((UP, UP), "supported"),
        ((UP, FLAT), "undecided"),
        ((FLAT, UP), "undecided"),
        ((UP, DOWN), "refuted"),
        ((DOWN, UP), "refuted"),
    ],
)
def test_memorization_must_raise_clean_accuracy_and_raise_it_more(gains, expected):
    assert verdict("a", gains=gains) == expected


@pytest.mark.parametrize(
    ("typical", "expected"), [(UP, "supported"), (DOWN, "refuted"), (FLAT, "undecided")]
)
def test_removal_must_make_typical_images_more_robust(typical, expected):
    assert verdict("b, 100 % removed, last", typical=typical) == expected


def test_harmful_images_have_claims_against_both_controls():
    found = summary()
    row = {"part": 0.5, "state": "last", "removed": 7, "against": "balanced"}
    found["harmful"] = [
        {**row, "typical": {"clean": over_seeds(FLAT), "pgd20": over_seeds(UP)}},
        {
            **{**row, "against": "merely-atypical"},
            "typical": {"clean": over_seeds(FLAT), "pgd20": over_seeds(FLAT)},
        },
    ]
    verdicts = {claim.name: claim.verdict for claim in claims(found)}
    assert verdicts["b, 50 % harmful, random, last"] == "supported"
    assert verdicts["b, 50 % harmful, merely atypical, last"] == "undecided"


@pytest.mark.parametrize(
    ("clean", "robust", "expected"),
    [
        (UP, FLAT, "supported"),
        (FLAT, UP, "supported"),
        (UP, UP, "supported"),
        (FLAT, FLAT, "undecided"),
        (UP, DOWN, "undecided"),
        (FLAT, DOWN, "refuted"),
        (DOWN, DOWN, "refuted"),
    ],
)
def test_bat_must_gain_in_one_and_lose_in_neither(clean, robust, expected):
    assert verdict("c, best", clean=clean, robust=robust) == expected


def test_another_run_of_bat_has_claims_of_its_own():
    found = summary(clean=UP)
    row = {"against": "trades", "state": "best", "ours": "bat_awp"}
    found["methods"].append({**row, "clean": over_seeds(FLAT), "autoattack": over_seeds(DOWN)})
    verdicts = {claim.name: claim.verdict for claim in claims(found)}
    assert verdicts["c, best"] == "supported"
    assert verdicts["c, bat_awp, best"] == "refuted"
    assert verdicts["c, bat_awp, last"] == "undecided"


def test_the_regime_follows_from_the_training_accuracy():
    assert verdict("regime", train=0.96) == "supported"
    assert verdict("regime", train=0.94) == "refuted"


def test_one_or_two_seeds_decide_nothing():
    assert sign(over_seeds([0.3])) == sign(over_seeds([0.3, 0.3])) == 0
    assert sign(over_seeds([0.3, 0.3, 0.3])) == 1
    assert points(over_seeds([0.3])) == "+30.0 (no interval; 1 seed)"


def test_an_undecided_claim_states_what_its_seeds_detect():
    found = {claim.name: claim.detectable for claim in claims(summary(typical=UP))}
    # The deviations of FLAT over three seeds, 2.0 points, times 3.264.
    assert found["a"] == "clean 6.5, clean minus PGD-10 6.5 points"
    assert found["b, 100 % removed, last"] == ""
    assert found["c, best"].startswith("pgd_at clean 6.5, pgd_at AutoAttack 6.5, trades clean")


def test_every_claim_states_its_numbers_with_seeds():
    for claim in claims(summary(clean=UP, robust=UP)):
        assert "3 seeds" in claim.numbers
        assert claim.rule


def test_an_arm_that_trains_on_clean_images_is_no_adversarial_method():
    found = summary(clean=UP)
    arm = {"against": "long", "clean": over_seeds(DOWN), "autoattack": over_seeds(DOWN)}
    found["methods"].append({**arm, "state": "best", "adversarial": False})
    verdicts = {claim.name: claim.verdict for claim in claims(found)}
    assert verdicts["c, best"] == "supported"
    found["methods"][-1]["adversarial"] = True
    assert {claim.name: claim.verdict for claim in claims(found)}["c, best"] == "refuted"


@pytest.mark.parametrize(
    ("classes", "accuracy", "expected"),
    [(10, 0.11, True), (10, 0.19, True), (10, 0.21, False), (2, 0.7, True), (2, 0.97, False)],
)
def test_a_run_is_at_chance_below_twice_what_guessing_gets_right(classes, accuracy, expected):
    found = {"accuracy": accuracy, "n": 100, "interval": [0, 1]}
    results = {"best": {"test": {"clean": found}}}
    run = Run(Path("run"), {}, {}, results, (), {"labels": np.arange(100) % classes})
    assert _is_at_chance(run) is expected


@pytest.mark.parametrize(("last", "expected"), [(60, 40), (30, 80)])
def test_a_state_that_is_best_and_last_was_attacked_once(last, expected):
    found = {"accuracy": 0.5, "n": 100, "interval": [0.4, 0.6]}
    sample = {"attacks": ["square"], "images": 40, "drawn": 10, "broken": 1}
    state = {"test": {"clean": found}, "sample": {**sample, "interval": [0.5, 0.52]}}
    results = {"best": {**state, "step": 60}, "last": {**state, "step": last}}
    run = Run(Path("run"), {}, {}, results, (), {})
    assert _sampled({"bat": [run]})["sampled"]["images"] == expected


def test_claims_name_held_out_training_images():
    found = claims({**summary(), "tested": 500})
    texts = " ".join(f"{claim.rule} {claim.numbers}" for claim in found)
    assert "on atypical held-out training images" in texts
    assert "on typical held-out training images" in texts
    assert "test images" not in texts
