"""Every image is counted once for any batch size, and accuracies have n and an interval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import models, parallel
from bat_jax.config import default
from bat_jax.data import load
from bat_jax.data.device import to_devices
from bat_jax.evaluation.classify import Evaluator
from bat_jax.evaluation.records import summarize, table
from bat_jax.evaluation.tracking import SETS, Tracker
from bat_jax.kernels import programs
from bat_jax.memorization import Typicality
from tests import compilations

LOSSES = ("cross_entropy", "margin")


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def model(digits):
    """A small network whose last layer is fitted by least squares to its random features."""
    model = models.create("small_cnn", 10, image_shape=(8, 8, 1), width=4)
    images = jnp.asarray(np.float32(digits.train.images / 255))
    variables = model.init(jax.random.key(0), images[:1])
    _, features = jax.jit(lambda v, x: model.apply(v, x, features=True))(variables, images)
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    solution = np.linalg.lstsq(design, np.eye(10)[digits.train.labels], rcond=None)[0]
    head = {
        "kernel": np.float32(10 * solution[:-1]),
        "bias": np.float32(10 * solution[-1]),
    }
    return model, {"params": {**variables["params"], "head": head}}


def configured(*, batch_size=128, epsilon=0.1):
    """Returns a config and the forms of its programs."""
    config = default()
    config.attack.epsilon = epsilon
    chosen = programs.resolve(
        {**config.programs.to_dict(), "unroll": False},
        is_small=True,
        is_ensemble=False,
        is_attacked=True,
    )
    config.evaluation.num_steps = 5
    config.evaluation.step_size = epsilon / 2
    config.evaluation.batch_size = batch_size
    return config, chosen


def evaluate(model, digits, *, devices=1, **fields):
    config, chosen = configured(**fields)
    mesh = parallel.make_mesh(devices)
    counted, compiled = [], []
    evaluator = Evaluator(model[0], config, mesh, chosen, losses=LOSSES)
    data = to_devices(digits.test, mesh)
    with compilations.heard() as heard:

        def progress(images):
            counted.append(images)
            compiled.append(len(heard))

        verdicts = evaluator(model[1], data, progress)
    assert sum(counted) == len(digits.test)
    # The first batch's program serves the others, the last and shorter one too.
    assert len(counted) > 1
    assert counted[-1] < counted[0]
    assert compiled[-1] == compiled[0] > 0
    return verdicts


def test_robust_is_at_most_clean_image_by_image(model, digits):
    verdicts = evaluate(model, digits)
    assert set(verdicts) == {"clean", "pgd5", "pgd5_margin"}
    assert verdicts["clean"].mean() > 0.7
    for name in ("pgd5", "pgd5_margin"):
        assert len(verdicts[name]) == 449
        assert np.all(verdicts[name] <= verdicts["clean"])
        assert verdicts[name].mean() < verdicts["clean"].mean() - 0.2


def test_epsilon_zero_gives_clean_accuracy(model, digits):
    verdicts = evaluate(model, digits, epsilon=0.0)
    np.testing.assert_array_equal(verdicts["pgd5"], verdicts["clean"])
    np.testing.assert_array_equal(verdicts["pgd5_margin"], verdicts["clean"])


def test_clean_verdicts_are_those_of_the_model_alone(model, digits):
    images = jnp.asarray(digits.test.images / np.float32(255))
    logits = jax.jit(model[0].apply)(model[1], images)
    expected = np.argmax(logits, axis=-1) == digits.test.labels
    np.testing.assert_array_equal(evaluate(model, digits)["clean"], expected)


def test_verdicts_do_not_depend_on_the_batch_size_or_the_devices(model, digits):
    alone, other = evaluate(model, digits), evaluate(model, digits, batch_size=200, devices=8)
    for name, correct in alone.items():
        assert np.mean(correct == other[name]) >= 0.998


def test_each_tracked_set_has_the_accuracy_of_its_own_images(model, digits):
    everything = np.concatenate([digits.train.images, digits.test.images])
    logits = jax.jit(model[0].apply)(model[1], jnp.asarray(everything / np.float32(255)))
    verdicts = np.split(np.argmax(logits, axis=-1), [len(digits.train)])

    # By set, how many images are classified correctly, and how many are not.
    counts = {
        "train_typical": (24, 6),
        "train_atypical": (5, 15),
        "test_typical": (100, 0),
        "test_atypical": (2, 8),
    }
    draws, groups = np.random.default_rng(0), {}
    for split, predicted, kinds in (
        (digits.train, verdicts[0], SETS[:2]),
        (digits.test, verdicts[1], SETS[2:]),
    ):
        is_correct = predicted == split.labels
        right, wrong = (draws.permutation(split.ids[of]) for of in (is_correct, ~is_correct))
        for kind in kinds:
            some, others = counts[kind]
            groups[kind] = np.concatenate([right[:some], wrong[:others]])
            right, wrong = right[some:], wrong[others:]
            assert len(groups[kind]) == some + others
    # Estimates may be of images that are not here.
    groups["train_typical"] = np.append(groups["train_typical"], 10**6)

    config, chosen = configured()
    config.evaluation.track.images, config.evaluation.track.num_steps = 40, 1
    found = Tracker(
        model[0],
        config,
        parallel.make_mesh(1),
        chosen,
        sets=(digits.train, digits.test),
        groups=Typicality(**groups),
        seed=0,
    )(model[1])
    assert tuple(found) == SETS
    for kind, (some, others) in counts.items():
        size = some + others
        assert (found[kind]["n"], found[kind]["of"]) == (min(size, 40), size)
        assert found[kind]["clean"] == pytest.approx(some / size)
        assert found[kind]["pgd1"] <= found[kind]["clean"]
    assert found["test_typical"]["pgd1"] < 1


def test_groups_are_reported_besides_all_images_and_empty_ones_omitted():
    verdicts = {"clean": np.array([True, True, False, True]), "pgd20": np.zeros(4, bool)}
    summary = summarize(verdicts, {"typical": np.array([0, 2]), "atypical": np.array([], int)})
    assert summary["clean"]["accuracy"] == 0.75
    assert summary["typical"]["clean"]["n"] == 2
    assert "atypical" not in summary
    printed = table({name: {"test": summary} for name in ("best", "last")})
    assert "best clean, typical" in printed
    assert "75.00 %" in printed
