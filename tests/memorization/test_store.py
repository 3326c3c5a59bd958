"""The store returns what was put in, and refuses files that cannot be part of it."""

import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.memorization.store import Scores, Store

TRAIN, TEST = 21, 13


def scores(members, statistic="correct"):
    draws = np.random.default_rng(0)
    masks = draws.random((len(members), TRAIN)) < 0.7
    train, test = (draws.integers(0, 2**15, (len(members), n)) * 2.0**-15 for n in (TRAIN, TEST))
    if statistic == "correct":
        train, test = train < 0.8, test < 0.6
    if statistic == "margin":
        train, test = (np.round((20 * values - 5) * 256) / 256 for values in (train, test))
    return Scores(np.array(members), masks, train, test)


def opened(folder, statistic="correct"):
    return Store(folder, train=TRAIN, test=TEST, statistic=statistic, writes=True)


def edited(folder, name="000004-000006.npz", **changes):
    """Writes a file of members 4 to 6 with some arrays changed."""
    opened(folder).append(scores([4, 5, 6]))
    with np.load(folder / "000004-000006.npz") as file:
        arrays = {key: file[key] for key in file.files}
    (folder / "000004-000006.npz").unlink()
    np.savez(folder / name, **arrays | changes)


@pytest.mark.parametrize("statistic", ["correct", "probability", "margin"])
def test_members_are_read_as_they_were_appended(tmp_path, statistic):
    store = opened(tmp_path, statistic)
    assert list(store.missing(5)) == [0, 1, 2, 3, 4]
    for members in ([0, 1], [3, 4]):
        store.append(scores(members, statistic))
    store = opened(tmp_path, statistic)
    assert list(store.missing(6)) == [2, 5]
    first, second = store.read(4)
    assert list(second.members) == [3]
    for ours, theirs in zip(first, scores([0, 1], statistic), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": np.array([-1, 5, 6])}, "members holds -1; expected integers of 0 or more"),
        ({"members": np.array([4, 5, 5])}, "members holds 5 more than once"),
        ({"members": np.array([4.0, 5.0, 6.0])}, "members is float64"),
        ({"members": np.array([7, 8, 9])}, "holds members 7 to 9; expected those of its name"),
        ({"masks": np.zeros((3, 4), np.uint8)}, r"masks has shape \(3, 4\); expected \(3, 3\)"),
        ({"train": np.zeros((2, 3), np.uint8)}, r"train has shape \(2, 3\)"),
        ({"train": np.full((3, TRAIN), np.nan)}, "train is float64; expected uint8"),
        ({"train": np.zeros((3, TRAIN), np.uint16)}, "train is uint16; expected uint8"),
        ({"name": "000002-000004.npz", "members": np.arange(2, 5)}, "as 000001-000002.npz does"),
    ],
)
def test_a_file_that_cannot_be_part_of_the_store_is_named_and_kept(tmp_path, changes, words):
    opened(tmp_path).append(scores([1, 2]))
    edited(tmp_path, **changes)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=f"npz: .*{words}.*: move this file out of its folder"):
        opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("statistic", ["correct", "margin"])
def test_scores_on_attacked_images_are_stored_beside_those_on_clean_ones(tmp_path, statistic):
    clean, robust = scores([3, 4], statistic), scores([3, 4], statistic)
    robust.test[:, :5] = robust.test[:, 5:10]
    given = clean._replace(attacked_train=robust.train, attacked_test=robust.test)
    store = Store(tmp_path, train=TRAIN, test=TEST, statistic=statistic, writes=True, attacked=True)
    store.append(given)
    (found,) = store.read(5)
    for ours, theirs in zip(found, given, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found.attacked().test, robust.test)
    # A store of clean scores reads what it needs; one of both lacks the others.
    (alone,) = opened(tmp_path, statistic).read(5)
    assert alone.attacked_test is None
    with pytest.raises(UserError, match="members have no scores on attacked images"):
        alone.attacked()
    opened(tmp_path, statistic).append(scores([5], statistic))
    with pytest.raises(
        UserError, match=r"000005-000005\.npz: has no attacked_train, attacked_test"
    ):
        Store(tmp_path, train=TRAIN, test=TEST, statistic=statistic, writes=True, attacked=True)


def test_a_reader_leaves_the_file_that_another_process_is_writing(tmp_path):
    opened(tmp_path).append(scores([0, 1]))
    partial = tmp_path / ".000002-000003.npz.7.part"
    partial.touch()
    reader = Store(tmp_path, train=TRAIN, test=TEST, statistic="correct")
    assert list(reader.missing(3)) == [2]
    assert partial.exists()
    opened(tmp_path)
    assert not partial.exists()


def test_scores_of_the_other_statistic_are_refused(tmp_path):
    opened(tmp_path).append(scores([0]))
    with pytest.raises(UserError, match=r"expected uint16 from 0 to 32,768 \(config.*is prob"):
        opened(tmp_path, "probability")


def test_probabilities_are_from_0_to_1(tmp_path):
    store = opened(tmp_path, "probability")
    diverged = scores([0, 1], "probability")
    diverged.test[1, 2] = np.nan
    with pytest.raises(UserError, match="1 members have scores that are not probabilities"):
        store.append(diverged)
    assert not list(tmp_path.iterdir())
    store.append(scores([0, 1], "probability"))
    path = tmp_path / "000000-000001.npz"
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(path, **arrays | {"test": np.full((2, TEST), 2**15 + 1, np.uint16)})
    with pytest.raises(UserError, match="test holds 32,769; expected uint16 from 0"):
        opened(tmp_path, "probability")


def test_margins_keep_their_sign_and_stay_below_128(tmp_path):
    store = opened(tmp_path, "margin")
    margins = (
        np.linspace(-1e-6, 1e-6, TRAIN),
        np.array([-np.inf, *np.linspace(-300, 300, TEST - 1)]),
    )
    store.append(scores([0])._replace(train=margins[0][None], test=margins[1][None]))
    (found,) = opened(tmp_path, "margin").read(1)
    np.testing.assert_array_equal(np.sign(found.train[0]), np.sign(margins[0]))
    np.testing.assert_allclose(found.test[0], np.clip(margins[1], -128, 128), atol=1 / 256)


def test_margins_that_are_not_numbers_are_refused(tmp_path):
    wrong = scores([0], "margin")
    wrong.train[0, 3] = np.nan
    with pytest.raises(UserError, match="1 members have scores that are not margins"):
        opened(tmp_path, "margin").append(wrong)


def test_a_store_of_correctness_holds_no_margins(tmp_path):
    opened(tmp_path).append(scores([0]))
    with pytest.raises(UserError, match=r"000000-000000\.npz.*memorization\.estimator is margin"):
        opened(tmp_path, "margin")
