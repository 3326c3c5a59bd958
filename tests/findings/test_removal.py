"""Harmful images are those of negative influence; controls have the same classes."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from bat_jax.data.dataset import Split
from bat_jax.errors import UserError
from bat_jax.findings.plan import plan, validate
from bat_jax.findings.removal import Harm, arm, by_harm, by_typicality, harm, removals
from bat_jax.memorization import Estimates, Influence

# 60 images of three classes, of which 10, 8 and 5 are atypical; ids are unlike rows.
LABELS = np.repeat(np.arange(3), 20).astype(np.int32)
TRAIN = Split(np.zeros((60, 1, 1, 1), np.uint8), LABELS, 1000 + 3 * np.arange(60))
ATYPICAL = TRAIN.ids[[*range(10), *range(20, 28), *range(40, 45)]]


def found(seed=0):
    return Harm(TRAIN.ids, np.random.default_rng(seed).normal(size=60), np.full(60, 0.1))


def classes(ids):
    return np.bincount(LABELS[np.isin(TRAIN.ids, ids)], minlength=3).tolist()


@pytest.mark.parametrize("part", [0.2, 0.5])
def test_the_three_removals_have_equally_many_images_of_each_class(part):
    sets = by_harm(part, TRAIN, ATYPICAL, found(), seed=0)
    assert tuple(sets) == ("harmful", "merely-atypical", "balanced")
    for ids in sets.values():
        assert len(np.unique(ids)) == len(ids)
        assert classes(ids) == [int(part * n) for n in (10, 8, 5)]


def test_controls_hold_no_harmful_image_and_merely_atypical_ones_are_atypical():
    for seed in range(5):
        harmful, merely, balanced = by_harm(0.5, TRAIN, ATYPICAL, found(seed), seed=seed).values()
        assert not set(harmful) & set(merely)
        assert not set(harmful) & set(balanced)
        assert set(merely) <= set(ATYPICAL)


def test_harmful_images_are_the_most_harmful_of_their_class():
    harms = found()
    harmful = by_harm(0.5, TRAIN, ATYPICAL, harms, seed=0)["harmful"]
    for label, count in enumerate((5, 4, 2)):
        of_class = np.flatnonzero(label == LABELS)
        most = of_class[np.argsort(-harms.values[of_class])[:count]]
        assert set(TRAIN.ids[most]) == set(harmful) & set(TRAIN.ids[of_class])


def test_images_that_help_or_are_unknown_are_never_harmful():
    few = Harm(TRAIN.ids[[0, 1, 2, 20]], np.array([0.3, -0.2, 0.1, -0.1]), np.zeros(4))
    sets = by_harm(0.5, TRAIN, ATYPICAL, few, seed=0)
    assert sets["harmful"].tolist() == TRAIN.ids[[0, 2]].tolist()
    assert [classes(ids) for ids in sets.values()] == [[2, 0, 0]] * 3


def test_the_seed_draws_the_controls_alone():
    first, again, other = (by_harm(0.5, TRAIN, ATYPICAL, found(), seed=seed) for seed in (0, 0, 1))
    for kind, ids in first.items():
        np.testing.assert_array_equal(ids, again[kind])
    np.testing.assert_array_equal(first["harmful"], other["harmful"])
    assert set(first["balanced"]) != set(other["balanced"])


def estimates(*blocks, inputs="adversarial"):
    """Estimates of training images 4 to 7 and test images 1, 2, 3 and 8."""
    return Estimates(
        "file.npz",
        memorization=np.zeros(4),
        train_labels=np.zeros(4, np.int64),
        test_labels=np.zeros(4, np.int64),
        train_ids=np.array([4, 5, 6, 7]),
        test_ids=np.array([1, 2, 3, 8]),
        influence=blocks,
        inputs=inputs,
    )


def test_harm_is_minus_the_mean_influence_on_the_chosen_images():
    values = np.array([[-0.2, -0.4, 0.9], [0.1, np.nan, 0.9], [np.nan, np.nan, 0.9]])
    errors = np.array([[0.1, 0.3, 9.0], [0.3, np.nan, 9.0], [np.nan, np.nan, 9.0]])
    found = estimates(
        Influence(np.array([3, 1, 2]), np.array([0, 1, 2]), values, errors),
        Influence(np.array([0]), np.array([3]), np.array([[-0.5]])),
    )
    # Test image 3 is not typical, and training image 6 has no influence on the others.
    of = harm(found, np.array([1, 2, 8]))
    assert of.ids.tolist() == [4, 5, 7]
    np.testing.assert_allclose(of.values, [0.5, -0.1, 0.3])
    np.testing.assert_allclose(of.standard_error, [np.nan, 0.3, 0.2])
    # Image 4 has no known error.
    assert of.certain() == 0


def test_harm_is_on_test_images_of_the_same_class():
    values = np.array([[-0.2, 0.8], [0.3, -0.6]])
    block = Influence(np.array([0, 1]), np.array([0, 1]), values)
    labels = np.array([0, 1, 0, 0])
    found = dataclasses.replace(estimates(block), train_labels=labels, test_labels=labels)
    of = harm(found, np.array([1, 2]))
    assert of.ids.tolist() == [4, 5]
    np.testing.assert_allclose(of.values, [0.2, 0.6])


@pytest.mark.parametrize("inputs", ["clean", None])
def test_harm_needs_influence_under_attack(inputs):
    block = Influence(np.array([0]), np.array([3]), np.array([[-0.5]]))
    for found in (estimates(block, inputs=inputs), estimates()):
        with pytest.raises(
            UserError, match=rf"file\.npz: estimates from {found.inputs or 'clean'} "
        ):
            harm(found, np.array([8]))


def test_random_removals_can_be_balanced():
    for seed in range(3):
        sizes = [
            classes(ids)
            for ids in by_typicality(0.5, TRAIN, ATYPICAL, seed=seed, is_balanced=True).values()
        ]
        assert sizes[0] == sizes[1]
        assert sum(sizes[0]) == 12


def test_each_removal_becomes_a_run(findings_config, tmp_path):
    config = findings_config(**{"findings.harmful": (0.5,), "evaluation.subset": 100})
    config.findings.robust_estimates = "robust.npz"
    config.findings.variants = ConfigDict()
    validate(config)
    runs = {run.arm: run for run in plan(config, TRAIN, ATYPICAL, tmp_path, found())}
    assert [run.arm for run in runs.values() if run.part == "removal"] == [
        *(arm(kind, 1.0) for kind in ("atypical", "random")),
        *(arm(kind, 0.5) for kind in ("harmful", "merely-atypical", "balanced")),
    ]
    for removal in removals(config.findings):
        for run in map(runs.get, removal.arms):
            assert len(run.removed) == {"atypical": 23, "harmful": 11}[removal.kind]
            assert run.config.data.exclude == str(tmp_path / f"{run.name}.txt")


def test_harmful_removals_need_test_images_to_choose(findings_config):
    with pytest.raises(UserError, match=r"config\.evaluation\.subset is 0; expected above 0"):
        validate(findings_config(**{"findings.harmful": (0.5,)}))


@pytest.mark.parametrize(
    "changes", [{"memorization": {"inputs": "clean"}}, {"objective": {"name": "standard"}}]
)
def test_the_robust_ensemble_trains_and_scores_under_attack(findings_config, changes):
    config = findings_config(**{"findings.harmful": (0.5,), "evaluation.subset": 100})
    config.findings.robust_ensemble.update(changes)
    with pytest.raises(UserError, match=r"config\.findings\.robust_ensemble trains"):
        validate(config)
