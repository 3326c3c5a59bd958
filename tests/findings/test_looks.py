"""Repeated looks at more seeds settle no more true nulls than one look does."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bat_jax.errors import UserError
from bat_jax.evaluation.runs import Run
from bat_jax.evaluation.statistics import over_seeds
from bat_jax.findings.claims import sign
from bat_jax.findings.looks import level, over_looks, settled
from bat_jax.findings.plan import validate
from bat_jax.findings.summary import _gains
from bat_jax.jobs.trial import _claim
from bat_jax.runtime import workdir

LOOKS = (3, 5, 8)


def settled_of(values, looks=LOOKS):
    return settled(over_looks(values, images=None, looks=looks))


def test_no_more_than_one_difference_in_twenty_is_settled_by_chance():
    draws = np.random.default_rng(0).normal(size=(20_000, LOOKS[-1]))
    p_values = np.array([stats.ttest_1samp(draws[:, :n], 0, axis=1).pvalue for n in LOOKS])
    is_settled = np.any(p_values < level(LOOKS), axis=0)
    # Looking three times at 5 % would settle twice as many.
    assert np.mean(is_settled) < 0.05 < 0.08 < np.mean(np.any(p_values < 0.05, axis=0))
    some = np.concatenate([np.flatnonzero(is_settled)[:20], np.flatnonzero(~is_settled)[:20]])
    for row in some:
        assert bool(settled_of(list(draws[row])).sign) == is_settled[row]


def test_a_look_tests_at_its_share_of_the_level():
    values = [0.01, 0.03, 0.02, 0.0, 0.01]
    look = over_looks(values, images=None, looks=LOOKS)["looks"][1]
    expected = stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / 3)
    np.testing.assert_allclose(look["interval"], expected, rtol=1e-6)


def test_the_first_look_that_excludes_0_settles_a_difference():
    clear = [0.02, 0.021, 0.019]
    assert settled_of(clear) == (1, 3, 8)
    # Later seeds change nothing.
    assert settled_of([*clear, -1.0, 1.0]) == (1, 3, 8)
    assert str(settled_of(clear)) == "settled at 3 seeds"
    assert settled_of([-v for v in clear]).sign == -1


def test_a_difference_is_open_between_looks_and_until_the_last():
    unclear = [0.02, -0.02, 0.001]
    assert settled_of(unclear) == (0, None, 8)
    assert str(settled_of(unclear)) == "open until 8 seeds"
    # The fourth seed waits for the look at the fifth.
    assert settled_of([*unclear, 0.02]) == settled_of(unclear)
    ended = settled_of([0.02, -0.02, 0.001] * 3)
    assert (ended.sign, ended.seeds) == (0, 8)
    assert str(ended) == "not settled by the last look, 8 seeds"


def test_verdicts_rest_on_the_looks_if_they_are_declared():
    values = [0.01, 0.012, 0.02]
    assert sign(over_seeds(values)) == 1
    # At a third of the level these three are too few.
    assert sign(over_looks(values, images=None, looks=LOOKS)) == 0
    assert sign(over_looks(values, images=None, looks=())) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"findings.looks": (5, 3)}, "ascending"),
        ({"findings.looks": (3,), "findings.seeds": (0, 1, 2, 3)}, "no more seeds"),
        ({"findings.looks": (2,)}, "3 or more"),
    ],
)
def test_wrong_looks_are_refused(findings_config, fields, words):
    with pytest.raises(UserError, match=words):
        validate(findings_config(**fields))


def seeds_in(folder):
    return workdir.read(folder / "config.json")[0]["findings"]["seeds"]


def test_seeds_can_be_added_to_findings_that_declared_looks(findings_config, tmp_path):
    fields = {"findings.looks": (3, 5), "findings.seeds": (0, 1, 2)}
    _claim(tmp_path, findings_config(**fields), {})
    more = {**fields, "findings.seeds": (0, 1, 2, 3, 4)}
    _claim(tmp_path, findings_config(**more), {})
    assert seeds_in(tmp_path) == [0, 1, 2, 3, 4]
    # Neither fewer seeds, nor others, nor other looks.
    for changed in (
        fields,
        {**more, "findings.seeds": (5, 1, 2, 3, 4)},
        {**more, "findings.looks": (3, 6)},
    ):
        with pytest.raises(UserError, match=r"findings\.(seeds|looks)"):
            _claim(tmp_path, findings_config(**changed), {})
    assert seeds_in(tmp_path) == [0, 1, 2, 3, 4]


def test_seeds_cannot_be_added_without_declared_looks(findings_config, tmp_path):
    _claim(tmp_path, findings_config(**{"findings.seeds": (0, 1, 2)}), {})
    with pytest.raises(UserError, match="declared, before the first run"):
        _claim(tmp_path, findings_config(**{"findings.seeds": (0, 1, 2, 3)}), {})


def test_added_seeds_change_no_gain_of_earlier_ones():
    def run(train, test):
        records = [
            {"split": name, "epoch": epoch, "n": 50, "of": 50, "clean": value, "pgd20": value}
            for name, values in (("train_atypical", train), ("test_atypical", test))
            for epoch, value in enumerate(values, 1)
        ]
        config = {"objective": {"name": "standard"}}
        return Run(Path("run"), config, {}, {}, tuple(records), {})

    # The first three memorize in the second epoch, those that are added in the third.
    early = [run([0.1, 0.8, 0.9], [0.2, 0.3, 0.5]) for _ in range(3)]
    late = [run([0.1, 0.1, 0.9], [0.2, 0.6, 0.7]) for _ in range(5)]
    first, both = (_gains(runs, "pgd20", (3, 8)) for runs in (early, early + late))
    assert first["from_epoch"] == both["from_epoch"] == 2.0
    assert both["atypical"]["clean"]["values"][:3] == first["atypical"]["clean"]["values"]
    assert first["atypical"]["clean"]["mean"] == pytest.approx(0.2)
