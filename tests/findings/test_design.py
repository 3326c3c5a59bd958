"""The designed search varies all options evenly, and finds the effects that scores have."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from bat_jax.errors import UserError
from bat_jax.evaluation.runs import Run
from bat_jax.findings import design
from bat_jax.findings.plan import validate, variants
from bat_jax.findings.summary import _designed
from bat_jax.report.findings import _design

FACTORS = {"alpha": (1.0, 4.0), "gate": ("misclassified", "memorized"), "pooling": ("sum", "mean")}


def test_every_pair_of_options_has_all_four_combinations_equally_often():
    matrix = design.matrix()
    assert matrix.shape == (24, 11)
    np.testing.assert_array_equal(matrix.T @ matrix, 24 * np.eye(11))
    np.testing.assert_array_equal(matrix.sum(axis=0), 0)
    assert len({tuple(row) for row in matrix}) == 24


def test_main_effects_are_free_of_interactions_of_two_options():
    matrix = design.matrix()
    products = matrix[:, :, None] * matrix[:, None, :]
    np.testing.assert_array_equal(np.einsum("vf,vgh->fgh", matrix, products), 0)


def test_the_first_variant_has_the_defaults_and_its_mirror_the_other_levels():
    found = design.variants(FACTORS)
    assert len(found) == 24
    assert found["design-01"] == {name: levels[0] for name, levels in FACTORS.items()}
    assert found["design-13"] == {name: levels[1] for name, levels in FACTORS.items()}
    assert design.variants({}) == {}


def scores(noise, seeds=3, **effect):
    draws = np.random.default_rng(0)
    levels = design.matrix()[:, : len(FACTORS)]
    sizes = np.array([effect.get(name, 0.0) for name in FACTORS])
    of_seed = draws.normal(size=seeds)
    return (levels @ sizes / 2)[:, None] + of_seed + noise * draws.normal(size=(24, seeds))


def test_effects_without_noise_are_recovered():
    found = design.effects(scores(0.0, alpha=0.02, gate=-0.03), FACTORS)
    means = [effect.mean for effect in found]
    np.testing.assert_allclose(means, [0.02, -0.03, 0.0], atol=1e-12)


def test_effects_are_those_of_least_squares():
    values = scores(0.01, alpha=0.02)
    columns = design.matrix()[:, :3]
    blocks = np.tile(np.eye(3), (24, 1))
    inputs = np.column_stack([np.repeat(columns, 3, axis=0) / 2, blocks])
    solved, residual, *_ = np.linalg.lstsq(inputs, values.ravel(), rcond=None)
    error = np.sqrt(residual[0] / (72 - 6) * np.linalg.inv(inputs.T @ inputs)[0, 0])
    first = design.effects(values, FACTORS)[0]
    np.testing.assert_allclose(first.mean, solved[0])
    # t of 66 degrees of freedom.
    np.testing.assert_allclose(first.interval[1] - first.mean, 1.99656 * error, rtol=1e-4)


def test_an_option_without_effect_is_covered_nineteen_times_in_twenty():
    draws = np.random.default_rng(0).normal(size=(300, 24, 2))
    missed = [
        effect.interval[0] > 0 or effect.interval[1] < 0
        for values in draws
        for effect in design.effects(values, FACTORS)
    ]
    assert np.mean(missed) == pytest.approx(0.05, abs=0.02)


def test_the_winner_changes_only_options_that_raise_the_score():
    found = design.effects(scores(0.001, alpha=0.02, gate=-0.03), FACTORS)
    expected = {"alpha": 4.0, "gate": "misclassified", "pooling": "sum"}
    assert design.winner(found, FACTORS) == expected


def test_a_variant_that_does_not_train_hides_no_effect():
    values = scores(0.002, alpha=0.02)
    values[np.argmax(design.matrix()[:, 0])] = -0.7
    assert design.winner(design.effects(values, FACTORS), FACTORS)["alpha"] == 1.0
    assert design.winner(design.effects(design.places(values), FACTORS), FACTORS)["alpha"] == 4.0
    assert design.medians(values, FACTORS)["alpha"] == pytest.approx(0.02, abs=0.005)


def test_factors_become_variants_of_bat(findings_config):
    config = findings_config(**{"findings.removed": ()})
    config.findings.variants = ConfigDict({"weight_only": {"beta_dl": 0.0}})
    config.findings.factors = ConfigDict(FACTORS)
    validate(config)
    names = list(variants(config))
    assert names[:2] == ["weight_only", "design-01"]
    assert len(names) == 25


def test_the_summary_scores_the_last_state_of_every_variant():
    def finished(clean, robust):
        state = {
            key: {"accuracy": value, "n": 100, "interval": [0, 1]}
            for key, value in (("clean", clean), ("pgd20", robust))
        }
        test = {"test": state}
        unused = {"test": {key: {**value, "accuracy": 0.5} for key, value in state.items()}}
        return Run(Path("run"), {}, {}, {"best": unused, "last": test}, (), {})

    levels = design.matrix()[:, 0] / 2
    arms = {
        f"bat-design-{number:02}": [
            finished(0.8 + 0.01 * level, 0.5 + 0.03 * level + 0.01 * seed) for seed in range(2)
        ]
        for number, level in enumerate(levels, 1)
    }
    found = _designed(arms, FACTORS, "pgd20")
    medians = {name: found["medians"][name]["alpha"] for name in ("score", "clean", "pgd20")}
    assert medians == pytest.approx({"score": 0.02, "clean": 0.01, "pgd20": 0.03})
    # The upper twelve share place 18.5, the lower ones 6.5.
    assert found["effects"]["score"]["alpha"]["mean"] == pytest.approx(12)
    assert found["winner"] == {"alpha": 4.0, "gate": "misclassified", "pooling": "sum"}
    (section,) = _design({"design": json.loads(json.dumps(found))})
    assert section.tables[0].rows[0][0] == "alpha: 4.0 for 1.0"
    assert section.tables[0].rows[0][-1] == "4.0"


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"alfa": (1.0, 2.0)}, r"factors\.alfa is \(1\.0, 2\.0\); expected two values"),
        ({"alpha": (1.0, 1.0)}, "expected two values"),
        ({"alpha": (1.0,)}, "expected two values"),
        ({"gate": ("all", "some")}, "gate"),
    ],
)
def test_wrong_factors_are_refused(findings_config, factors, words):
    config = findings_config()
    config.findings.factors = ConfigDict(factors)
    with pytest.raises(UserError, match=words):
        validate(config)
