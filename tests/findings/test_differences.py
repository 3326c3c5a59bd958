"""Comparisons of arms: the p values that a page shows together are adjusted together."""

from pathlib import Path

import pytest

from bat_jax.evaluation.records import STATES
from bat_jax.evaluation.statistics import holm
from bat_jax.findings.differences import adjust
from bat_jax.findings.results import read_results

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "cifar100_findings.json"


def of_state(rows, state):
    """Returns the tests over seeds of a checkpoint, of every arm and in both measures."""
    found = [row for row in rows if row["state"] == state]
    return [one for row in found for one in row.values() if isinstance(one, dict)]


def test_all_arms_and_both_measures_of_a_checkpoint_are_adjusted_together():
    rows = [
        {"against": "trades", "state": "best", "clean": {"p_value": 0.01}, "pgd20": {"n": 1}},
        {"against": "bat", "state": "best", "ours": "bat_awp", "clean": {"p_value": 0.02}},
        {"against": "trades", "state": "last", "clean": {"p_value": 0.03}},
    ]
    adjust(rows)
    assert [row["clean"]["p_holm"] for row in rows] == [0.02, 0.02, 0.03]
    assert "p_holm" not in rows[0]["pgd20"]


def test_results_of_older_versions_are_adjusted_anew():
    rows = read_results(RESULTS)["methods"]
    assert len({row.get("ours", "bat") for row in rows}) == 3
    for state in STATES:
        tests = of_state(rows, state)
        assert len(tests) == 12
        expected = holm([one["p_value"] for one in tests])
        assert [one["p_holm"] for one in tests] == pytest.approx(expected)
