"""The difference that seeds and images can detect, against SciPy and by simulation."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bat_jax.evaluation.statistics import over_seeds
from bat_jax.findings import contrasts, power
from bat_jax.findings.contrasts import Contrast
from bat_jax.findings.cost import expected_robust

PILOT = Path(__file__).parents[2] / "docs" / "results" / "fashion_mnist.json"


@pytest.mark.parametrize(("seeds", "level"), [(3, 0.05), (5, 0.05), (5, 0.0125), (8, 0.05)])
def test_the_test_has_the_stated_power_at_the_detectable_difference(seeds, level):
    difference = power.detectable(2.0, seeds, level=level)
    bound = stats.t.ppf(1 - level / 2, seeds - 1)
    noncentrality = difference * np.sqrt(seeds) / 2.0
    found = stats.nct.sf(bound, seeds - 1, noncentrality)
    found += stats.nct.cdf(-bound, seeds - 1, noncentrality)
    assert found == pytest.approx(0.8, abs=1e-4)


def test_a_simulation_finds_the_detectable_difference_four_times_in_five():
    difference = power.detectable(1.0, 4)
    draws = difference + np.random.default_rng(0).normal(size=(20_000, 4))
    p_values = stats.ttest_1samp(draws, 0, axis=1).pvalue
    assert np.mean(p_values < 0.05) == pytest.approx(0.8, abs=0.01)


def test_one_seed_detects_nothing_and_more_seeds_detect_less():
    assert power.detectable(1.0, 1) is None
    found = [power.detectable(1.0, seeds) for seeds in (3, 4, 5, 10)]
    assert found == sorted(found, reverse=True)


def test_a_measured_difference_detects_what_its_own_spread_allows():
    values = [0.01, 0.03, -0.01]
    expected = power.detectable(np.std(values, ddof=1), 3)
    assert power.of_difference(over_seeds(values)) == pytest.approx(expected)
    assert power.of_difference(over_seeds([0.01])) is None


def test_the_assumed_spread_falls_with_the_images_to_that_between_trainings():
    few, many = (power.assumed(images).deviation for images in (100, 10**9))
    assert few == pytest.approx(np.sqrt(0.005**2 + 0.09 / 100))
    assert many == pytest.approx(0.005, rel=1e-3)


def differing(images, deviation, **fields):
    values = np.array([-1.0, 0.0, 1.0]) * deviation
    return Contrast("c", "bat minus trades, best", "clean", images, tuple(values), **fields)


def test_a_pilot_on_other_images_changes_the_binomial_part_alone():
    pilot = [differing(1000, 0.02, discordant=0.1)]
    planned = contrasts.comparison("mart", "best", "clean", images=4000)
    expected = 0.02**2 - 0.1 / 1000 + 0.1 / 4000
    assert power.from_pilot(planned, pilot).deviation == pytest.approx(np.sqrt(expected))
    # A spread below the binomial part is scaled as a whole.
    pilot = [differing(1000, 0.005, discordant=0.1)]
    assert power.from_pilot(planned, pilot).deviation == pytest.approx(0.0025)


def test_a_pilot_pools_contrasts_of_its_kind_without_failed_arms():
    pilot = [
        differing(1000, 0.01, discordant=0.05),
        differing(1000, 0.03, discordant=0.05),
        differing(1000, 0.5, discordant=0.05, arms=("bat", "mart")),
    ]
    planned = contrasts.comparison("gairat", "last", "clean", images=1000)
    found = power.from_pilot(planned, pilot, failed=["mart"])
    assert found.deviation == pytest.approx(np.sqrt((0.01**2 + 0.03**2) / 2))
    assert "4 degrees of freedom" in found.source
    robust = contrasts.comparison("gairat", "last", "AutoAttack", images=1000)
    assert power.from_pilot(robust, pilot).source.startswith("assumed")


def test_the_expected_robust_accuracy_is_the_configs_then_the_pilots(findings_config):
    results = json.loads(PILOT.read_text())
    assert expected_robust(findings_config(), None) == 1.0
    methods = ("bat", "standard", "pgd_at", "trades", "gairat")
    accuracies = [results["accuracies"][name]["best"]["all"]["autoattack"] for name in methods]
    mean = np.mean([accuracy["mean"] for accuracy in accuracies])
    assert expected_robust(findings_config(), results) == pytest.approx(mean)
    config = findings_config(**{"findings.expected_robust": 0.3})
    assert expected_robust(config, results) == 0.3


def test_the_published_results_are_a_pilot():
    results = json.loads(PILOT.read_text())
    found = contrasts.measured(results)
    assert [one.claim for one in found].count("c") == 2 * 2 * 4
    assert power.failed_arms(results) == {"mart"}
    planned = contrasts.comparison("trades", "best", "AutoAttack", images=1000)
    spread = power.from_pilot(planned, found, failed={"mart"})
    # Six contrasts of three seeds: pgd_at, trades and gairat, best and last.
    assert "12 degrees" in spread.source
    assert 0.005 < spread.deviation < 0.02
