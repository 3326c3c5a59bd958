"""Extra images: the file that holds them, and the batches that they are mixed into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.data import Split, extra, load, select
from bat_jax.data.device import epoch_order
from bat_jax.data.mapped import Mapped
from bat_jax.errors import UserError
from bat_jax.training.building import build
from tests.methods.test_methods import from_outside
from tests.training.conftest import tiny
from tests.training.test_step import history_of


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def arrays(**changes):
    """Returns the arrays of a file of 40 extra digits, all white."""
    found = {"image": np.full((40, 8, 8, 1), 255, np.uint8), "label": np.arange(40) % 10}
    found.update(changes)
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"image": np.zeros((40, 8, 8, 3), np.uint8)},
            r"image has shape .*; expected \(extra, 8, 8, 1\)$",
        ),
        (
            {"image": np.zeros((40, 64), np.uint8)},
            r"image has shape \(40, 64\); expected \(extra, 8",
        ),
        ({"image": np.zeros((40, 8, 8, 1))}, "image is float64; expected uint8"),
        ({"label": np.zeros(39, np.int64)}, r"label has shape \(39,\); expected \(40,\)"),
        ({"label": np.zeros(40)}, "label is float64; expected integers from 0 to 9"),
        ({"label": np.full(40, 10)}, "label holds 10; expected integers from 0 to 9"),
        ({"label": np.full(40, -1)}, "label holds -1; expected integers from 0 to 9"),
        ({"label": None}, "has no label; expected extra training images"),
        (
            {"image": np.zeros((0, 8, 8, 1), np.uint8), "label": np.zeros(0, np.int64)},
            "holds no images; expected at least one",
        ),
        ({"label": np.array([None] * 40)}, "label is object; expected integers"),
    ],
)
def test_a_wrong_file_is_refused_by_its_field(digits, tmp_path, changes, words):
    path = tmp_path / "extra.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(UserError, match=rf"^config\.data\.extra .*extra\.npz: {words}"):
        extra.load(str(path), digits)


def test_images_of_classes_that_training_leaves_out_are_left_out(digits, tmp_path):
    """Labels are those of the whole data set, also after a selection."""
    path = str(tmp_path / "extra.npz")
    np.savez(path, **arrays())
    found = extra.load(path, select(digits, (7, 3)))
    assert found.labels.tolist() == [1, 0] * 4
    assert found.images.shape == (8, 8, 8, 1)
    assert (found.ids == -1).all()
    np.savez(path, **arrays(label=np.full(40, 5)))
    with pytest.raises(UserError, match=r"holds no images of the classes in config\.data\.c"):
        extra.load(path, select(digits, (7, 3)))


def test_a_file_that_is_missing_is_named(digits, tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.extra .*nowhere\.npz: no such file"):
        extra.load(str(tmp_path / "nowhere.npz"), digits)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data.extra_fraction": 1.0}, r"extra_fraction is 1\.0; expected above 0 and below 1"),
        ({"data.extra_fraction": 0.01}, r"extra_fraction is 0\.01; expected at least 0\.0156, one"),
        (
            {"job": "memorization", "data.validation": 0},
            "extra is .*; expected its default for the",
        ),
    ],
)
def test_a_part_that_no_batch_can_hold_is_refused(tmp_path, fields, words):
    np.savez(tmp_path / "extra.npz", **arrays())
    config = tiny("standard", **{"data.extra": str(tmp_path / "extra.npz"), **fields})
    with pytest.raises(UserError, match=words):
        build(config)


@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_batches_hold_their_part_of_extra_images_and_no_labelled_one_twice(fraction):
    each = int(fraction * 20)
    order = np.asarray(epoch_order(3, 1, examples=105, batch_size=20, extra=1000, extra_each=each))
    assert order.shape == (5, 20)
    is_extra = order >= 105
    assert (is_extra.sum(axis=1) == each).all()
    assert order.max() < 1105
    labelled = order[~is_extra]
    assert len(np.unique(labelled)) == len(labelled) == 5 * (20 - each)
    # The labelled ones are those of the permutation without extra images.
    plain = np.asarray(epoch_order(3, 1, examples=105, batch_size=105))[0]
    np.testing.assert_array_equal(labelled, plain[: len(labelled)])
    # Four devices that share a batch have equal parts, up to one image.
    shares = is_extra.reshape(5, 4, 5).sum(axis=2)
    assert shares.max() - shares.min() <= 1
    # Drawn with replacement from all of them, anew each epoch.
    other = np.asarray(epoch_order(3, 2, examples=105, batch_size=20, extra=1000, extra_each=each))
    assert set(other[other >= 105]) != set(order[is_extra])
    few = np.asarray(epoch_order(3, 1, examples=105, batch_size=20, extra=2, extra_each=each))
    assert set(few[few >= 105]) == {105, 106}


def test_extra_images_are_trained_on_and_leave_no_history(tmp_path):
    np.savez(tmp_path / "extra.npz", **arrays())
    fields = {"data.extra": str(tmp_path / "extra.npz"), "data.extra_fraction": 0.5}
    config = tiny("standard", **fields)
    experiment = build(config)
    assert len(experiment.presented) == len(experiment.train) + 40
    assert np.isnan(experiment.train_data().memorization).all()
    assert set(experiment.digests()) == {"train", "test", "extra"}

    order = np.asarray(experiment.order(experiment.root(), 0))
    state, data, root = experiment.initial_state(), experiment.train_data(), experiment.root()
    state, metrics = experiment.train_step(state, data, order, root)
    presented = np.asarray(history_of(state).presented)
    np.testing.assert_array_equal(np.flatnonzero(presented), np.sort(order[0][order[0] < 256]))
    # White images have the loss of white images.
    rows = order[0]
    images = experiment.presented.images[rows] / np.float32(255)
    assert (images[rows >= 256] == 1).all()
    logits = experiment.model.apply(experiment.initial_state().variables, jnp.asarray(images))
    log_probabilities = jax.nn.log_softmax(logits)[np.arange(64), experiment.presented.labels[rows]]
    np.testing.assert_allclose(metrics["loss"], -log_probabilities.mean(), rtol=1e-5)


def test_a_method_that_remembers_examples_takes_no_extra_ones(tmp_path):
    np.savez(tmp_path / "extra.npz", **arrays())
    fields = {"data.extra": str(tmp_path / "extra.npz")}
    for config in (from_outside("Remembering", **fields), tiny("te", **fields)):
        with pytest.raises(UserError, match=r"expected none for the objective (remembering|te), w"):
            build(config)


def test_extra_images_do_not_read_a_set_that_is_too_large_for_memory():
    images = np.zeros((3, 2, 2, 1), np.uint8)
    labels, ids = np.zeros(3, np.int32), np.arange(3)
    whole = Split(Mapped(images), labels, ids)
    with pytest.raises(UserError, match=r"config\.data\.extra is set, and the 3 training images"):
        extra.joined(whole, Split(images, labels, ids))
