"""Measures have a name in files and a title on pages; accuracies have an interval."""

import numpy as np
import pytest

from bat_jax.attacks.versions import STANDARD
from bat_jax.evaluation.records import AUTOATTACK, CLEAN, Accuracy, Evaluation, Measure, strongest
from bat_jax.evaluation.sampled import SampleRecord


@pytest.mark.parametrize(
    ("measure", "key", "title"),
    [
        (CLEAN, "clean", "clean"),
        (AUTOATTACK, "autoattack", "AutoAttack"),
        (Measure.pgd(20), "pgd20", "PGD-20"),
        (Measure.pgd(20, "margin"), "pgd20_margin", "PGD-20 (margin)"),
        (Measure.pgd(0), "pgd0", "PGD-0"),
    ],
)
def test_a_measure_has_a_key_and_a_title(measure, key, title):
    assert (measure.key, measure.title) == (key, title)
    assert Measure.parse(key) == measure
    assert measure.is_attack == (key != "clean")


@pytest.mark.parametrize(
    "key", ["", "pgd", "pgd020", "pgd-1", "pgd20_", "pgd20_cross_entropy", "typical", "Clean"]
)
def test_other_names_are_not_measures(key):
    assert not Measure.is_key(key)
    with pytest.raises(ValueError, match="is not a measure"):
        Measure.parse(key)


def test_the_strongest_attack_is_autoattack_then_the_first_pgd():
    pgd = [Measure.pgd(20, "margin"), Measure.pgd(20)]
    assert strongest([CLEAN, *pgd, AUTOATTACK]) == AUTOATTACK
    assert strongest([CLEAN, *pgd]) == pgd[0]
    assert strongest([CLEAN]) == CLEAN


def test_wilson_intervals():
    # 8 of 10: 0.4902 to 0.9433, as in Wilson (1927) computed by hand.
    found = Accuracy.of(np.array([True] * 8 + [False] * 2))
    z, p, n = 1.959964, 0.8, 10
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    np.testing.assert_allclose(found.interval, [centre - half, centre + half], atol=1e-6)
    assert found[:2] == (0.8, 10)
    assert str(found) == "80.0 (49.0 to 94.3)"
    assert Accuracy.from_json(found.to_json()) == found


def test_a_state_is_read_by_group_and_measure():
    accuracy = Accuracy(0.5, 4, (0.25, 0.75)).to_json()
    found = Evaluation.from_json({"test": {"clean": accuracy, "typical": {"pgd20": accuracy}}})
    assert list(found.groups) == ["", "typical"]
    assert found.all == {CLEAN: Accuracy.from_json(accuracy)}
    assert found.groups["typical"][Measure.pgd(20)].n == 4
    assert found.broken_by == {}


def test_the_interval_of_a_mean_over_versions_counts_images():
    draw = np.random.default_rng(0)
    hits = draw.random(200) < 0.7
    # Versions that agree are one image; the width of independent ones is that of many.
    same = Accuracy.of_shares(np.repeat(hits[:, None], 10, axis=1))
    np.testing.assert_allclose(same.interval, Accuracy.of(hits).interval, atol=2e-3)
    assert same.n == 200
    independent = draw.random((200, 10)) < 0.7
    found = Accuracy.of_shares(independent)
    np.testing.assert_allclose(found.interval, Accuracy.of(independent.ravel()).interval, atol=5e-3)
    everything = Accuracy.of_shares(np.ones((50, 10), bool))
    assert everything.interval == Accuracy.of(np.ones(50, bool)).interval
    assert Accuracy.of_shares(np.array([[True, False]])).n == 1


def test_the_interval_of_a_mean_over_versions_covers_the_true_mean():
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        # An image's versions share its difficulty; the mean of Beta(2, 1) is 2 / 3.
        hits = draw.random((100, 15)) < draw.beta(2, 1, (100, 1))
        low, high = Accuracy.of_shares(hits).interval
        covered += low <= 2 / 3 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_autoattack_without_its_standard_attacks_is_not_called_by_its_name_alone():
    def title(*attacks, **fields):
        return Evaluation({"": {}}, dict.fromkeys(attacks, 1), **fields).title(AUTOATTACK)

    sample = SampleRecord(("square",), 9, 5, 0, (0.1, 0.2))
    assert title() == title(*STANDARD) == title(*STANDARD, "fab") == "AutoAttack"
    assert title("apgd-ce", "square") == "AutoAttack (apgd-ce, square)"
    assert title("apgd-ce", sample=sample) == "AutoAttack (apgd-ce; sampled)"
    assert title(*STANDARD, sample=sample) == "AutoAttack (sampled)"
    assert Evaluation({"": {}}, {"apgd-ce": 1}).title(CLEAN) == "clean"
