"""A member is a function of the seed and its number, and does not depend on the others."""

import jax
import numpy as np
import pytest

from bat_jax.ensemble import members
from bat_jax.ensemble.members import Ensemble, even_rounds
from bat_jax.errors import UserError
from bat_jax.training.building import planned
from bat_jax.training.loop import NonFiniteError
from tests.ensemble.members import experiment
from tests.estimates import write_digits_estimates


def trained(members, **fields):
    fields = {"programs.members_at_once": 2, **fields}
    return Ensemble(experiment(**fields), members=len(members)).train(np.array(members))


@pytest.fixture(scope="module")
def ensemble():
    fields = {"programs.members_at_once": 2, "memorization.statistic": "probability"}
    return Ensemble(experiment(**fields), members=4)


@pytest.fixture(scope="module")
def four(ensemble):
    return ensemble.train(np.arange(4))


def test_members_scored_on_some_test_images_read_estimates_of_all(tmp_path):
    made = experiment(
        **{
            "objective.name": "bat",
            "objective.bat.gate": "memorized",
            "memorization.estimates": str(write_digits_estimates(tmp_path / "all.npz")),
            "memorization.test_images": 9,
        }
    )
    assert len(made.dataset.test) == 9
    assert len(made.estimates.test_ids) == 449


@pytest.mark.parametrize(
    ("start", "words"), [(5.0, []), (9.0, ["with epoch 8: the weights of bat"])]
)
def test_warnings_are_of_the_plan_of_a_member(start, words, caplog):
    # 280 images make 4 batches of 70, and half of them 2.
    fields = {
        "objective.name": "bat",
        "objective.bat.start_epoch": start,
        "train.batch_size": 70,
        "train.steps": 16,
        "memorization.ratio": 0.5,
        "attack.num_steps": 2,
        "data.subset": 280,
        "programs.members_at_once": 1,
    }
    Ensemble(experiment(**fields), members=1)
    assert len(caplog.messages) == len(words)
    assert all(word in caplog.text for word in words)


def test_members_have_different_subsets_of_the_requested_size(four):
    assert four.masks.shape == (4, 200)
    np.testing.assert_array_equal(four.masks.sum(1), 140)
    assert len(np.unique(four.masks, axis=0)) == 4
    assert len(np.unique(four.test, axis=0)) == 4


def test_a_member_does_not_depend_on_the_others(ensemble, four):
    # Another round, another device, and a slot to fill.
    alone = ensemble.train(np.array([7, 2, 5]))
    for name in ("masks", "train", "test"):
        np.testing.assert_array_equal(getattr(alone, name)[1], getattr(four, name)[2])


def relabelled(ensemble, member, rows):
    """Returns the scores of a member that trained with other labels in some rows."""
    labels = np.array(ensemble._train.labels)
    labels[rows] = (labels[rows] + 1) % 10
    placed = jax.device_put(labels, ensemble._train.labels.sharding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(ensemble), "_train", ensemble._train._replace(labels=placed))
        return ensemble.train(np.array([member]))


@pytest.mark.parametrize("member", [0, 2])
def test_a_member_trains_on_the_images_of_its_mask_alone(ensemble, four, member):
    mask = four.masks[member]
    outside = relabelled(ensemble, member, ~mask)
    np.testing.assert_array_equal(outside.masks[0], mask)
    np.testing.assert_array_equal(outside.test[0], four.test[member])
    np.testing.assert_array_equal(outside.train[0, mask], four.train[member, mask])
    inside = relabelled(ensemble, member, np.flatnonzero(mask)[:1])
    assert np.any(inside.test[0] != four.test[member])


@pytest.mark.parametrize("conv", ["batch_last", pytest.param("xla", marks=pytest.mark.slow)])
def test_members_trained_at_once_equal_members_trained_one_by_one(four, conv):
    fields = {"programs.training": conv, "programs.evaluation": conv}
    fields |= {"memorization.statistic": "probability", "programs.execution": "vmap"}
    at_once = trained([0, 1, 2, 3], **fields)
    np.testing.assert_array_equal(at_once.masks, four.masks)
    np.testing.assert_allclose(at_once.train, four.train, atol=2e-4)
    np.testing.assert_allclose(at_once.test, four.test, atol=2e-4)


def test_members_at_once_share_the_batch_of_an_evaluation(monkeypatch):
    """Their training fills the memory that one member's scoring was not counted in."""
    sizes, original = [], members.to_unit

    def to_unit(images):
        sizes.append(len(images))
        return original(images)

    monkeypatch.setattr(members, "to_unit", to_unit)
    fields = {"programs.execution": "vmap", "evaluation.batch_size": 12}
    ensemble = Ensemble(experiment(**{"programs.members_at_once": 2, **fields}), members=4)
    devices = len(ensemble._mesh.devices)
    assert ensemble.round_size == 2 * devices
    ensemble.train(np.arange(2 * devices))
    assert set(sizes) == {6}


def test_correctness_follows_from_the_probabilities(four):
    correct = trained([0, 1])
    assert correct.train.dtype == np.bool_
    # Ten classes: above a half a label wins, below a tenth it cannot.
    assert correct.train[four.train[:2] > 0.5].all()
    assert not correct.train[four.train[:2] < 0.1].any()
    margins = trained([0, 1], **{"memorization.estimator": "margin"})
    np.testing.assert_array_equal(margins.train > 0, correct.train)
    np.testing.assert_array_equal(margins.test > 0, correct.test)


@pytest.fixture(scope="module")
def scored_on_both():
    return trained([0, 1], **{"objective.name": "pgd_at", "memorization.inputs": "both"})


def test_members_are_trained_and_scored_on_attacked_images_on_request(scored_on_both):
    scores = trained([0, 1], **{"objective.name": "pgd_at", "memorization.inputs": "adversarial"})
    assert scores.attacked_train is None
    assert scores.train.mean() < scored_on_both.train.mean()
    for found, expected in zip(scored_on_both.attacked(), scores, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_members_scored_on_both_have_the_clean_scores_of_those_scored_on_clean_images(
    scored_on_both,
):
    clean = trained([0, 1], **{"objective.name": "pgd_at"})
    np.testing.assert_array_equal(scored_on_both.train, clean.train)
    np.testing.assert_array_equal(scored_on_both.test, clean.test)


def test_a_training_may_end_within_an_epoch(four):
    # 4 steps an epoch: 6 steps are an epoch and a half, the others have two.
    short = trained([0], **{"train.steps": 6, "memorization.statistic": "probability"})
    np.testing.assert_array_equal(short.masks, four.masks[:1])
    assert np.abs(short.test - four.test[:1]).max() > 1e-3


def test_a_loss_that_is_not_finite_names_the_member():
    with pytest.raises(NonFiniteError, match="member 4: loss not finite in epoch"):
        trained([4, 5], **{"train.optimizer.learning_rate": 1e30})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train.batch_size": 150, "parallel.devices": 1}, "140 images of a member's subset"),
        ({"memorization.ratio": 0.999}, "expected some to be left out"),
        ({"memorization.ratio": 1.0}, "above 0 and below 1"),
        ({"memorization.ratio": 0.0}, "above 0 and below 1"),
        ({"memorization.members": 0}, "expected 1 or more"),
        ({"memorization.statistic": "loss"}, "expected one of correct, probability"),
        ({"memorization.estimator": "median"}, "expected one of difference, margin"),
        (
            {"memorization.estimator": "margin", "memorization.members": 20},
            r"members is 20; expected at least 27 for .* margin at .*ratio 0\.7, about 8 with",
        ),
        (
            {"memorization.estimator": "margin", "memorization.statistic": "probability"},
            "statistic is probability; expected correct for the estimator margin",
        ),
        ({"data.validation": 10}, "expected 0"),
    ],
)
def test_wrong_fields_are_reported(fields, words):
    with pytest.raises(UserError, match=words):
        Ensemble(experiment(**fields), members=4)


def test_members_of_bat_know_the_memorization_of_their_images(tmp_path):
    estimates = write_digits_estimates(tmp_path / "memorization.npz")
    fields = {"objective.name": "bat", "memorization.estimates": str(estimates)}
    fields["programs.members_at_once"] = 1
    found = experiment(**fields)
    known = np.asarray(Ensemble(found, members=2)._train.memorization)
    first = np.array(
        [np.flatnonzero(found.dataset.train.labels == label)[0] for label in range(10)]
    )
    is_first = np.isin(found.train.ids, found.dataset.train.ids[first])
    np.testing.assert_allclose(known, np.where(is_first, 0.9, 0.0), rtol=1e-6)


def test_weights_apply_from_the_middle_of_a_members_own_training():
    fields = {"objective.name": "bat", "train.schedule.name": "one_cycle", "train.steps": 40}
    found = planned(experiment(**fields), examples=140)  # Four steps an epoch.
    assert found.method.begins == pytest.approx(5.0)


def test_rounds_leave_the_fewest_slots_empty():
    assert even_rounds(1000, fitting=16, devices=2) == 20
    assert even_rounds(3, fitting=16, devices=2) == 4
    assert even_rounds(64, fitting=16, devices=2) == 32
    assert even_rounds(1, fitting=100, devices=8) == 8


def test_as_many_members_run_as_fit_in_memory(monkeypatch):
    found = experiment(**{"programs.execution": "vmap"})
    monkeypatch.setattr(members, "free_bytes", lambda device: 2**34)
    taken = Ensemble(found, members=10**9).round_size
    monkeypatch.setattr(members, "free_bytes", lambda device: 2**33)
    half = Ensemble(found, members=10**9).round_size
    assert 0.4 < half / taken < 0.6
    monkeypatch.setattr(members, "free_bytes", lambda device: 10)
    monkeypatch.setattr(members, "to_devices", lambda split, *_: _placed(split))
    with pytest.raises(UserError, match="one member takes"):
        Ensemble(found, members=10)


def _placed(split):
    from bat_jax.data.device import DeviceSplit

    return DeviceSplit(
        split.images, split.labels, split.ids.astype(np.int32), np.zeros(len(split), np.float32)
    )
