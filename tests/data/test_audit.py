import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from bat_jax import data
from bat_jax.config import default
from bat_jax.data import audit
from bat_jax.data.audit import duplicates
from bat_jax.data.audit.__main__ import main
from bat_jax.errors import UserError
from bat_jax.evaluation.runs import Run
from bat_jax.report.audit import section
from bat_jax.runtime.storage import as_path
from bat_jax.runtime.workdir import claim

CIFAR100 = Path(__file__).parents[2] / "../shared/data/cifar-100-binary.tar.gz"


def difference(x, y):
    """Returns the difference of two images, as its formula says."""
    x, y = (image - image.mean((0, 1), dtype=np.float64) for image in (x, y))
    return np.sqrt(np.mean((x - y) ** 2) / max(np.mean(x**2), np.mean(y**2)))


def by_brute_force(images, tolerance):
    return {
        pair
        for pair in itertools.combinations(range(len(images)), 2)
        if not np.array_equal(*images[list(pair)])
        and max(np.ptp(images[row], (0, 1)).max() for row in pair) > 0
        and difference(*images[list(pair)]) <= tolerance
    }


@pytest.mark.parametrize("shape", [(8, 8, 1), (13, 9, 3), (32, 32, 3), (2, 3, 1)])
@pytest.mark.parametrize("tolerance", [0.05, 0.3])
def test_near_duplicates_are_those_of_a_search_through_all_pairs(shape, tolerance, monkeypatch):
    for name, value in (("_ROWS", 7), ("_COLUMNS", 10), ("_PIXELS", 5000)):
        monkeypatch.setattr(duplicates, name, value)
    random = np.random.default_rng(0)
    base = random.integers(40, 200, (10, *shape))
    noise = random.normal(size=(4, 10, *shape)) * np.array([2, 8, 20, 0])[:, None, None, None, None]
    images = np.concatenate([base[None] + noise[:3], base[None] + 30]).reshape(-1, *shape)
    images = np.concatenate([images, base, np.full((2, *shape), 7)]).clip(0, 255).astype(np.uint8)
    found = duplicates.near(images, tolerance=tolerance)
    expected = by_brute_force(images, tolerance)
    assert {tuple(pair) for pair in found.rows.tolist()} == expected
    assert len(found.rows) == len(expected) > 0
    assert np.all(np.diff(found.difference) >= 0)
    for pair, value in zip(found.rows, found.difference, strict=True):
        assert value == pytest.approx(difference(*images[pair]), abs=1e-5)


def test_thumbnails_never_differ_by_more_than_their_images():
    random = np.random.default_rng(1)
    for shape in ((8, 8, 1), (11, 19, 3), (3, 40, 3)):
        images = random.integers(0, 256, (20, *shape)).astype(np.uint8)
        small = duplicates._thumbnails(images)
        assert np.all(np.linalg.norm(small, axis=1) <= duplicates.contrast(images) + 1e-3)


@pytest.fixture
def planted():
    """Returns a set with one of everything that an audit looks for."""
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    test = random.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    train[3] = train[1]  # The same picture twice, as cat and dog.
    train[4] = 200
    test[0] = test[2] = train[5]
    test[4] = np.clip(train[6] + np.eye(8, dtype=int)[..., None], 0, 255)
    return data.from_arrays(
        train,
        np.array([0, 0, 0, 1, 1, 1, 1, 1]),
        test,
        np.array([1, 0, 1, 0, 0]),
        class_names=["cat", "dog"],
        name="planted",
    )


def test_an_audit_finds_what_was_planted(planted):
    found = audit.audit(planted)
    assert found["train"]["images_by_class"] == {"cat": 3, "dog": 5}
    assert found["train"]["constant_image_ids"] == [4]
    assert found["train"]["duplicate_group_ids"] == [[1, 3]]
    assert found["test"]["duplicate_group_ids"] == [[0, 2]]
    assert found["copies_across"] == [{"train": [5], "test": [0, 2], "labels": ["dog"]}]
    assert found["test_images_in_train"] == 2
    (several,) = found["copies_with_several_labels"]
    assert several == {"train": [1, 3], "test": [], "labels": ["cat", "dog"]}
    assert found["pictures_with_several_labels"] == 1
    (near,) = found["near_duplicates"]
    assert near["ids"] == [6, 4]
    assert near["labels"] == ["dog", "cat"]
    assert found["train"]["near_duplicate_pairs"] == found["test"]["near_duplicate_pairs"] == 0
    text = audit.text(found)
    for words in ("test 0 = test 2 = train 5", "train, equal: 1 = 3", "6, 4 (dog / cat, 0.0"):
        assert words in text


def test_classes_of_one_name_are_counted_apart(planted):
    images, labels = planted.train.images, planted.train.labels
    twins = data.from_arrays(images, labels, images[:1], labels[:1], class_names=["crane"] * 2)
    counts = audit.audit(twins)["train"]["images_by_class"]
    assert counts == {"crane (0)": 3, "crane (1)": 5}


def test_the_command_prints_text_or_json(capsys, tmp_path):
    assert main(["--name=digits", f"--json={tmp_path / 'a.json'}"]) == 0
    assert "images                                        1,348      449" in capsys.readouterr().out
    assert main(["--name=digits", "--json"]) == 0
    written = json.loads((tmp_path / "a.json").read_text())
    assert json.loads(capsys.readouterr().out) == written == audit.read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name=digits", "--tolerance=1"], "--tolerance is '1'; expected 0 or more and below 1"),
        (["--name=digits", "--tolerance=x"], "--tolerance is 'x'; expected a finite number"),
        (["--name=digit"], "data set 'digit' is unknown"),
        (["--run=/nowhere"], "/nowhere: has no config.json; expected the folder of a run"),
        (["--name=digits", "--json=/nowhere/a.json"], "/nowhere"),
        (["--name=digits", "--run=x"], "not allowed with argument"),
        ([], "one of the arguments --name --run is required"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(arguments, words, capsys):
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    assert status in (1, 2)
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_the_audit_of_a_run_is_shown_on_its_page(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # It removes caplog's handler.
    config = default()
    config.data.name, config.data.classes = "digits", (1, 7)
    digits = data.select(data.load("digits"), (1, 7))
    digests = {"train": digits.train.digest(), "test": digits.test.digest()}
    claim(tmp_path, config, digests, defaults=default())
    run = Run(as_path(tmp_path), {}, {"data": digests}, {}, (), {})
    assert section(run) is None

    assert main([f"--run={tmp_path}"]) == 0
    assert capsys.readouterr().out.startswith("digits, 2 classes\n")
    counts, images = section(run).tables
    assert counts.rows[0] == ("images", str(len(digits.train)), str(len(digits.test)), "")
    assert ("near (0.18)", "1134", "1107", "1") in images.rows
    assert not caplog.messages

    other = Run(as_path(tmp_path), {}, {"data": {**digests, "test": "0"}}, {}, (), {})
    assert section(other) is None
    assert "is an audit of other test data than the run's" in caplog.text
    (tmp_path / "audit.json").write_text("{}")
    assert section(run) is None
    assert "has no name" in caplog.text


def test_a_run_whose_data_have_changed_is_not_audited(tmp_path, capsys):
    config = default()
    config.data.name = "digits"
    claim(tmp_path, config, {"train": "0", "test": "0"}, defaults=default())
    assert main([f"--run={tmp_path}"]) == 2
    assert "was made with other train data than digits holds now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("job", "field"), [("train", "data.tested"), ("memorization", "memorization.test_images")]
)
def test_a_run_on_other_test_images_is_not_audited(job, field, tmp_path, capsys):
    config = default()
    config.job, config.data.name = job, "digits"
    config.update_from_flattened_dict({field: 50})
    claim(tmp_path, config, {"train": "0", "test": "0"}, defaults=default())
    assert main([f"--run={tmp_path}"]) == 2
    assert f"has other test images than digits, by config.{field}" in capsys.readouterr().err


@pytest.mark.skipif(not CIFAR100.exists(), reason="needs the CIFAR-100 archive")
@pytest.mark.slow
def test_the_duplicates_of_cifar100_are_found():
    found = audit.audit(data.load("cifar100", path=CIFAR100))
    assert found["train"]["duplicate_groups"] == 14
    assert found["test_images_in_train"] == 10
    assert found["pictures_with_several_labels"] == 17
    assert found["train"]["near_duplicate_pairs"] > 0


def test_an_image_of_any_size_has_a_digest_of_its_own():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    images[1, 0, 0] = 1
    (group,) = duplicates.equal(images)
    assert group.tolist() == [0, 2]


def test_an_audit_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file; expected an audit of a data set"):
        audit.read(tmp_path / "audit.json")
