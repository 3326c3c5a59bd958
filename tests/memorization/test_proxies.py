"""The file of a run's training examples, and its comparison with estimates."""

import dataclasses

import numpy as np
import pytest

from bat_jax.data import load
from bat_jax.errors import UserError
from bat_jax.memorization import load as load_estimates
from bat_jax.memorization import proxies
from bat_jax.memorization.history import History
from tests.estimates import write_digits_estimates


@pytest.fixture
def written(tmp_path):
    """Returns the file of a run that was trained on every second image, and its images."""
    images = load("digits").train
    images = images.take(np.arange(0, len(images), 2))
    n = len(images)
    history = History(
        presented=np.full(n, 4, np.int32),
        loss_sum=np.linspace(1, 2, n, dtype=np.float32),
        forgotten=np.zeros(n, np.int32),
        is_correct=np.ones(n, bool),
    )
    # Row 0 was never trained on, row 1 never right, row 2 forgotten twice and wrong at the end.
    history.presented[0] = 0
    history.is_correct[[0, 1, 2]] = False
    history.forgotten[2] = 2
    path = tmp_path / proxies.FILE
    proxies.save(path, images, history, dataset="digits")
    return path, images


def test_a_file_holds_one_row_per_image_without_pickles(written):
    path, images = written
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {
            "ids",
            "labels",
            "presented",
            "loss_sum",
            "forgotten",
            "ever_correct",
            "dataset",
        }
        assert file["dataset"] == "digits"
        np.testing.assert_array_equal(file["ids"], images.ids)
        np.testing.assert_array_equal(file["ever_correct"][:4], [False, False, True, True])


def test_never_correct_ranks_as_most_forgotten_and_never_seen_is_unknown(written):
    found = proxies.load(written[0])
    np.testing.assert_array_equal(found.forgetting[:4], [np.nan, np.inf, 2, 0])
    assert np.isnan(found.mean_loss[0])
    assert found.mean_loss[-1] == 0.5


def test_they_are_joined_to_estimates_by_id(written, tmp_path):
    path, images = written
    estimates = load_estimates(write_digits_estimates(tmp_path / "memorization.npz"))
    # A third of the estimates are not known.
    memorization = np.where(np.arange(len(estimates.train_ids)) % 3 == 0, np.nan, 0.01)
    rows = {id_: row for row, id_ in enumerate(estimates.train_ids)}
    hard = rows[images.ids[1]], rows[images.ids[2]]
    memorization[list(hard)] = 0.9, 0.5
    estimates = dataclasses.replace(estimates, memorization=memorization)
    found = proxies.compare(proxies.load(path), estimates)
    known = np.isfinite([memorization[rows[id_]] for id_ in images.ids])
    known[0] = False
    for comparison in found.values():
        assert comparison.rank_correlation.n == known.sum()
        assert comparison.atypical == 2
    # Both atypical images were forgotten and no other was; their losses are the lowest.
    assert found["forgetting"].auroc.value == 1
    assert found["forgetting"].rank_correlation.value == pytest.approx(1)
    assert found["mean_loss"].auroc.value < 0.01


def test_estimates_with_other_labels_are_refused(written, tmp_path):
    estimates = load_estimates(write_digits_estimates(tmp_path / "memorization.npz"))
    labels = (estimates.train_labels + 1) % 10
    other = dataclasses.replace(estimates, train_labels=labels)
    with pytest.raises(UserError, match=r"has label \d, in .* disagree"):
        proxies.compare(proxies.load(written[0]), other)


def test_estimates_of_another_set_are_refused_in_one_line(written, tmp_path):
    estimates = load_estimates(write_digits_estimates(tmp_path / "memorization.npz"))
    found = proxies.load(written[0])
    # Its labels agree.
    other = dataclasses.replace(estimates, dataset="flipped\ndigits")
    with pytest.raises(UserError, match=r"of digits, and .* estimates of flipped") as error:
        proxies.compare(found, other)
    assert "\n" not in str(error.value)
    proxies.compare(found, dataclasses.replace(estimates, dataset="digits"))


def test_a_file_without_the_name_of_its_set_is_read(written, tmp_path):
    estimates = load_estimates(write_digits_estimates(tmp_path / "memorization.npz"))
    path = tmp_path / "old.npz"
    with np.load(written[0]) as file:
        np.savez(path, **{name: file[name] for name in file.files if name != "dataset"})
    found = proxies.load(path)
    assert found.dataset is None
    compared = proxies.compare(found, dataclasses.replace(estimates, dataset="digits"))
    assert compared["mean_loss"].rank_correlation.n == len(found.ids) - 1


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file; expected the training examples of a run"):
        proxies.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", ids=np.arange(3))
    with pytest.raises(UserError, match="has no labels, presented, loss_sum"):
        proxies.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": np.full(898, 3)}, "ids holds 3 more than once"),
        ({"labels": np.full(898, "cat")}, "labels is <U3; expected integers"),
        ({"presented": np.full(898, -1)}, "presented holds -1"),
        ({"loss_sum": np.full(898, np.nan)}, "loss_sum holds nan"),
        ({"ever_correct": np.full(898, 0.5)}, "ever_correct is float64; expected booleans"),
        ({"forgotten": np.zeros((898, 1), int)}, "forgotten has shape"),
        ({"dataset": np.array([b"digits"])}, r"dataset is \|S6; expected one text"),
    ],
)
def test_a_file_with_a_wrong_column_is_refused_by_name(written, change, words):
    path, images = written
    change = {name: values[: len(images)] for name, values in change.items()}
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **arrays | change)
    with pytest.raises(UserError, match=f"{path.name}: {words}"):
        proxies.load(path)
