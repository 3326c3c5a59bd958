"""Corrupted test images are read in both official layouts, or refused in one line."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bat_jax import data
from bat_jax.data import corruptions
from bat_jax.data.corruptions import MADE, NAMES, SEVERITIES, corrupted
from bat_jax.data.corruptions.__main__ import main
from bat_jax.errors import UserError

COUNT, SIDE = 6, 8


@pytest.fixture(scope="module")
def dataset():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    labels = np.array([2, 0, 1, 1, 0, 2], np.int32)
    return data.from_arrays(images, labels, images, labels, class_names=("ant", "bee", "cat"))


@pytest.fixture(scope="module")
def versions():
    """By corruption, the images of all severities, each with its number in the first pixel."""
    draw = np.random.default_rng(1)
    found = {}
    for number, name in enumerate(NAMES):
        found[name] = draw.integers(0, 256, (5 * COUNT, SIDE, SIDE, 3), np.uint8)
        found[name][:, 0, 0, 0] = np.arange(5 * COUNT)
        found[name][:, 0, 0, 1] = number
    return found


@pytest.fixture
def arrays(dataset, versions, tmp_path):
    """The folder of a small CIFAR-10-C."""
    for name, images in versions.items():
        np.save(tmp_path / f"{name}.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(dataset.test.labels, 5).astype(np.uint8))
    return tmp_path


@pytest.fixture(scope="module")
def folders_of_all(dataset, versions, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    for name in NAMES[:2]:
        for severity in SEVERITIES:
            for row, label in enumerate(dataset.test.labels):
                image = versions[name][(severity - 1) * COUNT + row]
                place = path / name / str(severity) / dataset.class_names[label]
                place.mkdir(parents=True, exist_ok=True)
                # One colour for each image, which JPEG keeps.
                flat = np.broadcast_to(image[:1, :1], image.shape)
                Image.fromarray(flat).save(place / f"val_{row}.JPEG", quality=95)
    return path


@pytest.fixture
def folders(folders_of_all, tmp_path):
    """The folder of a small Tiny-ImageNet-C with two corruptions."""
    return Path(shutil.copytree(folders_of_all, tmp_path / "folders"))


def test_arrays_have_the_severities_one_after_another(arrays, dataset, versions):
    found = corruptions.read(arrays, dataset)
    assert found.names == NAMES
    for severity in SEVERITIES:
        split = found.split("fog", severity, dataset.test)
        expected = versions["fog"][(severity - 1) * COUNT : severity * COUNT]
        np.testing.assert_array_equal(split.images, expected)
        np.testing.assert_array_equal(split.labels, dataset.test.labels)
    some = found.split("snow", 2, dataset.test.take(np.array([4, 1])))
    np.testing.assert_array_equal(some.images, versions["snow"][[COUNT + 4, COUNT + 1]])


def test_some_classes_of_a_set_find_their_images(arrays, dataset, versions):
    chosen = data.select(dataset, ("cat", "bee"))
    images = corruptions.read(arrays, chosen).split("fog", 1, chosen.test).images
    np.testing.assert_array_equal(images, versions["fog"][chosen.test.ids])


def test_folders_are_read_by_class_and_number(folders, dataset, versions):
    found = corruptions.read(folders, dataset, NAMES[:2])
    split = found.split("shot_noise", 4, dataset.test)
    expected = versions["shot_noise"][3 * COUNT : 4 * COUNT, 0, 0].astype(int)
    assert np.abs(split.images[:, 3, 3].astype(int) - expected).max() < 8


def test_files_with_other_numbers_are_read_in_their_order(folders, dataset):
    names = NAMES[:1]
    before = corruptions.read(folders, dataset, names).split(names[0], 1, dataset.test)
    for file in sorted((folders / names[0]).rglob("*.JPEG")):
        file.rename(file.with_name(f"other_{int(file.stem[4:]) + 1000:08d}.JPEG"))
    after = corruptions.read(folders, dataset, names).split(names[0], 1, dataset.test)
    np.testing.assert_array_equal(before.images, after.images)


def test_the_files_of_a_users_folder_are_read_in_the_order_of_names(tmp_path):
    """Its ids are places in the order of names, which may be numbers of other lengths."""
    for part in ("train/a", "test/a", "train/b", "test/b", "made/fog"):
        (tmp_path / part).mkdir(parents=True)
    for number in range(12):
        image = Image.fromarray(np.full((SIDE, SIDE, 3), 20 * number, np.uint8))
        for part in ("train", "test"):
            for label in "ab":
                image.save(tmp_path / part / label / f"{number}.png")
    for severity in SEVERITIES:
        place = tmp_path / "made" / "fog" / str(severity)
        shutil.copytree(tmp_path / "test", place)
        (place / "a" / "._1.png").write_bytes(b"of the system")
    own = data.load(f"folder:{tmp_path}", cache="none")
    found = corruptions.read(tmp_path / "made", own, ("fog",)).split("fog", 1, own.test)
    np.testing.assert_array_equal(found.images, own.test.images)


def saved(name, array):
    return lambda path: np.save(path / name, array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "fog.npy").unlink(), "lacks fog.npy; expected 15 corruptions"),
        (saved("fog.npy", np.zeros((5, 8, 8, 3), np.uint8)), r"fog.npy: is uint8 of shape \(5, "),
        (saved("fog.npy", np.zeros((30, 8, 8, 3))), "fog.npy: is float64 of shape"),
        (
            saved("labels.npy", np.zeros(31, int)),
            r"labels.npy: is int64 of shape \(31,\); expected",
        ),
        (saved("labels.npy", np.zeros(30)), "labels.npy: is float64 of shape"),
        (saved("labels.npy", np.zeros(25, int)), "has labels of 5 images at each severity"),
        (
            saved("labels.npy", np.zeros(30, int)),
            "has label 0 for image 0 at severity 1; expected 2",
        ),
        (lambda path: (path / "fog.npy").write_bytes(b"NUMPY"), "fog.npy: cannot be read"),
        (lambda path: (path / "labels.npy").unlink(), "labels.npy: cannot be read"),
        (saved("fog.npy", np.array([{}])), "fog.npy: cannot be read"),
        (
            lambda path: [file.unlink() for file in path.glob("*.npy")],
            "lacks gaussian_noise, shot_",
        ),
    ],
)
def test_wrong_arrays_are_refused(change, message, arrays, dataset):
    change(arrays)
    with pytest.raises(UserError, match=message) as caught:
        corruptions.read(arrays, dataset)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: shutil.rmtree(path / NAMES[1]), "lacks shot_noise; expected 2 corruptions"),
        (lambda path: shutil.rmtree(path / NAMES[1] / "3"), "shot_noise/3: no such folder"),
        (lambda path: shutil.rmtree(path / NAMES[0] / "1" / "bee"), "1/bee: no such folder"),
        (
            lambda path: (path / NAMES[0] / "1" / "bee" / "val_2.JPEG").unlink(),
            "1/bee: has 1 images; expected 2, the number of test images of this class in arrays",
        ),
        (
            lambda path: (path / NAMES[1] / "2" / "bee" / "val_2.JPEG").unlink(),
            "2/bee/val_2.JPEG: No such file or directory; expected the same files",
        ),
        (
            lambda path: (path / NAMES[1] / "2" / "bee" / "val_2.JPEG").write_bytes(b"JPEG"),
            "bee/val_2.JPEG: is not an image that can be read",
        ),
    ],
)
def test_wrong_folders_are_refused(change, message, folders, dataset):
    change(folders)
    with pytest.raises(UserError, match=message) as caught:
        corruptions.read(folders, dataset, NAMES[:2]).split(NAMES[1], 2, dataset.test)
    assert "\n" not in str(caught.value)


def test_a_place_that_is_no_folder_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="absent: is not a folder; expected that of CIFAR-10-C"):
        corruptions.read(tmp_path / "absent", dataset)


@pytest.fixture(scope="module")
def gray():
    return np.broadcast_to(np.uint8(128), (40, 8, 8, 1)).copy()


def test_noises_have_their_published_spread(gray):
    ids, unit = np.arange(len(gray)), 128 / 255
    spreads = {
        "gaussian_noise": 0.1,
        "shot_noise": (unit / 50) ** 0.5,
        "speckle_noise": 0.2 * unit,
    }
    for name, spread in spreads.items():
        found = corrupted(gray, ids, name, 5, seed=0) / 255
        assert found.std() == pytest.approx(spread, rel=0.06)
        assert found.mean() == pytest.approx(unit, abs=0.01)
        # An image's draws are its own.
        again = corrupted(gray[7:9], ids[7:9], name, 5, seed=0) / 255
        np.testing.assert_array_equal(again, found[7:9])
    found = corrupted(gray, ids, "impulse_noise", 5, seed=0)
    for value in (0, 255):
        assert (found == value).mean() == pytest.approx(0.035, abs=0.012)
    assert ((found == 128) | (found == 0) | (found == 255)).all()


def test_brightness_raises_the_value_of_hsv():
    import colorsys

    images = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), np.uint8)
    images[0, 0, 0] = 0
    found = corrupted(images, np.arange(1), "brightness", 5, seed=0)
    for before, after in zip(images.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
        assert np.abs(after / 255 - expected).max() < 1.01 / 255


def test_contrast_pixelate_and_jpeg_are_their_formulas():
    images = np.random.default_rng(0).integers(0, 256, (2, 10, 10, 3), np.uint8)
    ids = np.arange(2)
    mean = images.mean(axis=(1, 2), keepdims=True)
    expected = mean + 0.75 * (images - mean)
    assert np.abs(corrupted(images, ids, "contrast", 1, seed=0) - expected).max() <= 1
    # At sides of more than 32, severity 5 halves the image.
    large = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 1), np.uint8)
    pixelated = corrupted(large, ids[:1], "pixelate", 5, seed=0).astype(int)
    boxes = large.reshape(20, 2, 20, 2).mean(axis=(1, 3))
    assert np.abs(pixelated.reshape(20, 2, 20, 2) - boxes[:, None, :, None]).max() <= 1
    compressed = corrupted(images, ids, "jpeg_compression", 5, seed=0)
    assert compressed.shape == images.shape
    assert (compressed != images).any()


def test_other_corruptions_are_not_made(gray):
    for name, severity in (("fog", 1), ("contrast", 6)):
        with pytest.raises(UserError, match=f"corruption: '{name}' of severity {severity}; exp"):
            corrupted(gray, np.arange(len(gray)), name, severity, seed=0)


def test_a_made_set_is_read_again(dataset, tmp_path, monkeypatch, capsys):
    from bat_jax.data.corruptions import __main__ as command

    monkeypatch.setattr(command, "load", lambda name, path: dataset)
    made = tmp_path / "made"
    assert main(["--name=small", f"--out={made}"]) == 0
    assert f"--config.evaluation.corruptions.path={made}" in capsys.readouterr().out
    found = corruptions.read(made, dataset, MADE)
    expected = corrupted(dataset.test.images, dataset.test.ids, "contrast", 3, seed=0)
    np.testing.assert_array_equal(found.split("contrast", 3, dataset.test).images, expected)
    assert main(["--name=small", f"--out={made}"]) == 2
    assert "exists and is not empty; expected a new folder" in capsys.readouterr().err


@pytest.fixture
def made(dataset, tmp_path, monkeypatch):
    """A data set whose ids are no rows, as those of digits, and the folder that is made of it."""
    from bat_jax.data.corruptions import __main__ as command

    test = dataclasses.replace(dataset.test, ids=4 * dataset.test.ids + 3)
    whole = dataclasses.replace(dataset, test=test)
    monkeypatch.setattr(command, "load", lambda name, path: whole)
    assert main(["--name=small", f"--out={tmp_path / 'made'}"]) == 0
    return whole, tmp_path / "made"


def test_some_classes_of_a_set_find_their_images_by_the_ids_in_the_folder(made):
    whole, path = made
    chosen = data.select(whole, ("cat", "bee"))
    found = corruptions.read(path, chosen, MADE).split("contrast", 3, chosen.test)
    expected = corrupted(chosen.test.images, chosen.test.ids, "contrast", 3, seed=0)
    np.testing.assert_array_equal(found.images, expected)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.arange(COUNT), r"ids.npy: lacks 7, the id of a test image of arrays \(5 are missing\)"),
        (np.full(COUNT, 3), "ids.npy: has the id 3 twice; expected each test image once"),
        (np.arange(4), r"ids.npy: is int64 of shape \(4,\); expected integers of shape \(6,\)"),
        (np.zeros(COUNT), r"ids.npy: is float64 of shape \(6,\); expected integers of shape"),
    ],
)
def test_wrong_ids_in_the_folder_are_refused(made, ids, message):
    whole, path = made
    np.save(path / "ids.npy", ids)
    with pytest.raises(UserError, match=message) as caught:
        corruptions.read(path, whole, MADE)
    assert "\n" not in str(caught.value)
