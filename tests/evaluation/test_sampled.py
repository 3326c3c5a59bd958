"""Accuracies of sampled verdicts cover the images that not all attacks were run on."""

import numpy as np
import pytest

from bat_jax.attacks import anytime
from bat_jax.evaluation.records import AUTOATTACK, CLEAN, Accuracy, Evaluation, summarize
from bat_jax.evaluation.sampled import Sampled, SampleRecord

EVERY = slice(None)


def sampled(*, images=100, population=60, drawn=20, broken=2, parts=1):
    """Returns verdicts whose population comes first in every part, and its drawn images first."""
    place = np.arange(images)
    is_drawn = place < drawn
    stands = (place >= broken) & (place < population)
    masks = (stands, place < population, is_drawn)
    part = np.repeat(np.arange(parts, dtype=np.int32), images)
    return Sampled(*(np.tile(mask, parts) for mask in masks), part)


def test_one_part_has_the_interval_of_its_draws():
    limits = anytime.limits(60, 20, 2, confidence=0.9)
    assert sampled().standing(EVERY, 0.9) == (60 - limits.high, 54.0, 60 - limits.low)


def test_parts_share_the_chance_of_an_error():
    limits = anytime.limits(60, 20, 2, confidence=1 - 0.1 / 3)
    expected = (3 * (60 - limits.high), 162.0, 3 * (60 - limits.low))
    assert sampled(parts=3).standing(EVERY, 0.9) == expected


def test_a_sample_of_everything_is_exact():
    found = sampled(drawn=60, broken=7)
    assert found.standing(EVERY, 0.95) == (53, 53.0, 53)
    exact = Accuracy.of(found.stands)
    estimated = Accuracy.of_sampled(found, EVERY)
    assert estimated.accuracy == exact.accuracy
    # Only half of the 5 % is Wilson's.
    assert estimated.interval[0] < exact.interval[0] < exact.interval[1] < estimated.interval[1]


def test_groups_have_the_interval_of_their_own_draws():
    rows = np.array([0, 5, 6, 7, 30, 31, 80])
    limits = anytime.limits(6, 4, 1, confidence=0.9)
    found = sampled().standing(rows, 0.9)
    assert found == (6 - limits.high, 4.5, 6 - limits.low)


def test_a_group_without_a_drawn_image_has_the_rate_of_all():
    found = sampled().standing(np.arange(40, 60), 0.9)
    assert found == (0, 18.0, 20)
    assert sampled().standing(np.arange(90, 100), 0.9) == (0, 0.0, 0)


def test_images_broken_before_they_are_drawn_are_certain():
    found = sampled(broken=0)
    found.stands[20:50] = False
    assert found.standing(EVERY, 0.95).high == 30
    assert found.not_run.sum() == 10


@pytest.mark.parametrize("broken", [0, 3, 20])
def test_intervals_of_groups_cover_the_truth(broken):
    rng = np.random.default_rng(broken)
    missed = []
    for _ in range(150):
        # 80 images, of which 40 are a group; the first in a random order are drawn.
        is_broken = rng.permuted(np.arange(80) < 2 * broken)
        is_drawn = rng.permuted(np.arange(80) < 30)
        everyone = np.ones(80, bool)
        found = Sampled(~(is_broken & is_drawn), everyone, is_drawn, np.zeros(80, np.int32))
        low, _, high = found.standing(slice(40), 0.8)
        missed.append(not low <= (~is_broken[:40]).sum() <= high)
    assert np.mean(missed) <= 0.2


def test_the_interval_covers_the_choice_of_test_images_too():
    found = sampled(images=1000, population=600, drawn=300, broken=1)
    accuracy = Accuracy.of_sampled(found, EVERY)
    standing = found.standing(EVERY, 0.975)
    assert accuracy.n == 1000
    assert accuracy.accuracy == pytest.approx(0.598)
    assert accuracy.interval[0] < standing.low / 1000 < standing.high / 1000 < accuracy.interval[1]
    # Half a point of 1,000 images is little beside Wilson's three.
    assert accuracy.interval == pytest.approx((0.55, 0.635), abs=0.015)


def test_a_record_is_read_as_it_was_written():
    found = sampled()
    record = SampleRecord.of(found, ("fab-t", "square"), (0.4, 0.58))
    assert record == (("fab-t", "square"), 60, 20, 2, (0.4, 0.58))
    assert SampleRecord.from_json(record.to_json()) == record
    assert str(record) == (
        "fab-t and square on 20 of 60 images, of which they broke 2: on all, robust accuracy is"
        " 40.00 to 58.00 % (95 %)"
    )
    test = summarize({"clean": found.in_population, "autoattack": found}, {})
    evaluation = Evaluation.from_json({"test": test, "sample": record.to_json()})
    assert evaluation.all[AUTOATTACK].accuracy == 0.54
    assert evaluation.sample == record
    assert [evaluation.title(m) for m in (CLEAN, AUTOATTACK)] == ["clean", "AutoAttack (sampled)"]
    assert Evaluation.from_json({"test": test}).title(AUTOATTACK) == "AutoAttack"
