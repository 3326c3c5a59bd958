"""A run on some classes of a set, and the files by example that it is given."""

import dataclasses
import json

import numpy as np
import pytest

from bat_jax import data, memorization
from bat_jax.config import default
from bat_jax.errors import UserError
from bat_jax.evaluation.runs import Run
from bat_jax.memorization import proxies
from bat_jax.memorization.history import History
from bat_jax.memorization.matching import matched
from bat_jax.report.proxies import section
from bat_jax.runtime.workdir import claim
from bat_jax.training.building import build
from bat_jax.training.saved import read_run
from tests.estimates import write_digits_estimates

CLASSES = (7, 2, 4)


@pytest.fixture
def whole(tmp_path):
    """Returns estimates of all digits."""
    return memorization.load(write_digits_estimates(tmp_path / "m.npz"))


@pytest.fixture
def digits():
    return data.select(data.load("digits"), CLASSES)


def test_names_and_a_number_of_classes_become_labels_in_the_config(tiny_config):
    for given, labels in ((("7", 2), (7, 2)), ((3,), (0, 1, 2))):
        config = tiny_config(**{"data.classes": given, "data.subset": 0})
        experiment = build(config)
        assert experiment.config.data.classes == labels
        assert experiment.dataset.num_classes == len(labels)
        # A worker builds its experiment from this config and data set.
        assert build(experiment.config, dataset=experiment.dataset).dataset is experiment.dataset


def test_a_wrong_class_of_a_config_is_refused(tiny_config):
    with pytest.raises(UserError, match=r"config\.data\.classes is \(0, 10\); expected labels of"):
        build(tiny_config(**{"data.classes": (0, 10)}))


def test_estimates_of_the_whole_set_follow_the_classes(digits, whole):
    chosen = matched(whole, digits)
    np.testing.assert_array_equal(chosen.train_ids, digits.train.ids)
    np.testing.assert_array_equal(chosen.test_labels, digits.test.labels)
    groups, all_groups = memorization.split(chosen), memorization.split(whole)
    for ours, theirs, images in (
        (groups.train_atypical, all_groups.train_atypical, digits.train),
        (groups.test_atypical, all_groups.test_atypical, digits.test),
    ):
        np.testing.assert_array_equal(ours, theirs[np.isin(theirs, images.ids)])
    assert len(groups.train_atypical) == 3
    assert len(groups.test_atypical) == 30


def test_estimates_of_some_classes_serve_these_alone(digits, whole, tmp_path):
    chosen = memorization.select(whole, CLASSES)
    memorization.save(tmp_path / "some.npz", chosen)
    read = memorization.load(tmp_path / "some.npz")
    assert read.classes == CLASSES
    assert matched(read, digits) is read
    with pytest.raises(UserError, match=r"the classes \(7, 2, 4\); expected those of all classes"):
        matched(read, data.load("digits"))
    with pytest.raises(UserError, match=r"the classes \(7, 2, 4\); expected .* or of \(2, 7\)"):
        matched(read, data.select(data.load("digits"), (2, 7)))


def test_estimates_without_examples_of_the_classes_are_refused(digits, whole):
    others = ~np.isin(whole.train_labels, CLASSES)
    part = dataclasses.replace(
        whole,
        memorization=whole.memorization[others],
        train_labels=whole.train_labels[others],
        train_ids=whole.train_ids[others],
        influence=(),
    )
    with pytest.raises(UserError, match="has no training examples of the classes"):
        matched(part, digits)


def test_estimates_that_place_an_example_in_another_class_are_refused(digits, whole):
    labels = whole.train_labels.copy()
    row = np.flatnonzero(labels == 2)[0]
    for label, words in ((4, "has label 2, in digits 1"), (3, "is in none of the classes")):
        labels[row] = label
        with pytest.raises(UserError, match=words):
            matched(dataclasses.replace(whole, train_labels=labels), digits)


def test_excluded_ids_of_another_class_are_refused(tiny_config, tmp_path):
    other = data.load("digits").train.ids[data.load("digits").train.labels == 3][0]
    (tmp_path / "ids.txt").write_text(f"{other}\n")
    fields = {"data.classes": CLASSES, "data.exclude": str(tmp_path / "ids.txt")}
    with pytest.raises(UserError, match=rf"training example {other} is not in digits"):
        build(tiny_config(**fields))


def test_a_run_records_its_classes_and_is_read_with_them(tiny_config, tmp_path):
    experiment = build(tiny_config(**{"data.classes": ("7", "2", "4")}))
    claim(tmp_path, experiment.config, experiment.digests(), defaults=default())
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["config"]["data"]["classes"] == list(CLASSES)
    assert read_run(tmp_path).dataset.classes == CLASSES

    other = build(tiny_config(**{"data.classes": (7, 2, 5)}))
    assert other.digests()["train"] != experiment.digests()["train"]
    with pytest.raises(UserError, match=r"another config .*: data\.classes"):
        claim(tmp_path, other.config, other.digests(), defaults=default())


def test_proxies_of_some_classes_are_compared_with_estimates_of_all(tiny_config, tmp_path):
    estimates = str(write_digits_estimates(tmp_path / "m.npz"))
    experiment = build(
        tiny_config(**{"data.classes": CLASSES, "memorization.estimates": estimates})
    )
    images = len(experiment.train)
    seen = np.arange(images)
    history = History(
        presented=seen + 1, loss_sum=seen / 7, forgotten=seen % 3, is_correct=seen % 2 == 0
    )
    proxies.save(tmp_path / proxies.FILE, experiment.train, history)
    about = {"data": experiment.digests()}
    run = Run(tmp_path, experiment.config.to_dict(), about, {}, (), {})
    (table,) = section(run).tables
    assert [row[1] for row in table.rows] == [str(images)] * 2
