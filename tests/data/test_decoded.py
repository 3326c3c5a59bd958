"""Images of folders are decoded once; files of other data, damaged and changed ones are named."""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from bat_jax.data import decoded, images, load
from bat_jax.data.mapped import Mapped
from bat_jax.errors import UserError
from bat_jax.runtime import memory


def pixels(seed, size=(6, 5)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def put(file, image):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)


@pytest.fixture
def folder(tmp_path):
    """A data set of two classes."""
    place = tmp_path / "set"
    for number, name in enumerate(("train/cat/1", "train/cat/2", "train/dog/1", "test/dog/9")):
        put(place / f"{name}.png", pixels(number))
    return place


def caches(place):
    return sorted(path.name for path in place.iterdir() if "decoded-" in path.name)


def error(folder, **options):
    with pytest.raises(UserError) as caught:
        load(f"folder:{folder}", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(*_, **__):
    raise AssertionError("decoded again")


def test_a_folder_is_decoded_once(folder, monkeypatch):
    first = load(f"folder:{folder}")
    (name,) = caches(folder)
    assert sorted(path.name for path in (folder / name).iterdir()) == ["about.json", "images.npy"]
    monkeypatch.setattr(images, "decode", refused)
    again = load(f"folder:{folder}")
    for part in ("train", "test"):
        assert getattr(again, part).digest() == getattr(first, part).digest()
    np.testing.assert_array_equal(again.train.images[1], pixels(1))
    assert isinstance(again.train.images, np.ndarray)


def test_the_decoded_images_go_where_the_config_says(folder, tmp_path, monkeypatch):
    load(f"folder:{folder}", cache="none")
    assert not caches(folder)
    load(f"folder:{folder}", cache=str(tmp_path / "new" / "cache"))
    assert not caches(folder)
    assert len(caches(tmp_path / "new" / "cache")) == 1
    monkeypatch.setattr(images, "decode", refused)
    load(f"folder:{folder}", cache=str(tmp_path / "new" / "cache"))
    assert "expected a folder of a disk" in error(folder, cache="gs://bucket/folder")


def test_a_set_larger_than_memory_is_mapped(folder, monkeypatch):
    whole = load(f"folder:{folder}")
    monkeypatch.setattr(memory, "available", lambda: 4 * 6 * 5 * 3)
    mapped = load(f"folder:{folder}")
    assert isinstance(mapped.train.images, Mapped)
    for part in ("train", "test"):
        left, right = getattr(mapped, part), getattr(whole, part)
        assert left.digest() == right.digest()
        np.testing.assert_array_equal(np.asarray(left.images), right.images)
        np.testing.assert_array_equal(left.images[0], right.images[0])
    kept = mapped.train.take(np.array([2, 0]))
    assert isinstance(kept.images, Mapped)
    assert kept.images.nbytes == 2 * 6 * 5 * 3
    np.testing.assert_array_equal(kept.images[:], whole.train.images[[2, 0]])
    with pytest.raises(TypeError, match="item assignment"):
        kept.images[0] = 0
    with pytest.raises(ValueError, match="copies"):
        np.asarray(kept.images, copy=False)


def test_a_changed_folder_is_decoded_again_under_another_name(folder, caplog):
    load(f"folder:{folder}")
    (former,) = caches(folder)
    put(folder / "train" / "dog" / "2.png", pixels(7))
    assert len(load(f"folder:{folder}").train) == 4
    assert len(caches(folder)) == 2
    assert former in caches(folder)
    (record,) = caplog.records
    assert f"have changed since {folder / former} was decoded from them" in record.getMessage()
    os.utime(folder / "train" / "dog" / "2.png", ns=(0, 0))
    load(f"folder:{folder}")
    assert len(caches(folder)) == 3


def test_a_folder_that_changes_while_it_is_read_is_named(folder, monkeypatch):
    decode = images.decode

    def meanwhile(names, *rest, **options):
        found = decode(names, *rest, **options)
        put(folder / names[2], pixels(8, (6, 5)))
        os.utime(folder / names[2], ns=(0, 0))
        return found

    monkeypatch.setattr(images, "decode", meanwhile)
    for options in ({}, {"cache": "none"}):
        put(folder / "train" / "dog" / "1.png", pixels(2))
        message = error(folder, **options)
        assert "train/dog/1.png changed while the folder was read" in message
    assert not caches(folder)


def test_folders_with_equal_listings_share_a_cache_but_no_images(tmp_path):
    for name, value in (("one", 10), ("two", 200)):
        for part in ("train", "test"):
            place = tmp_path / name / part / "cat" / "1.bmp"
            place.parent.mkdir(parents=True)
            Image.fromarray(np.full((6, 5, 3), value, np.uint8)).save(place)
            os.utime(place, ns=(10**18, 10**18))
    cache = str(tmp_path / "cache")
    found = [load(f"folder:{tmp_path / name}", cache=cache) for name in ("one", "two", "one")]
    assert [int(one.train.images[0, 0, 0, 0]) for one in found] == [10, 200, 10]
    assert len(caches(tmp_path / "cache")) == 2


def test_what_is_damaged_or_of_other_data_is_refused_and_stays(folder, tmp_path):
    load(f"folder:{folder}")
    (name,) = caches(folder)
    about, file = folder / name / "about.json", folder / name / "images.npy"
    content, whole = about.read_text(), file.read_bytes()

    def refused_with(text):
        message = error(folder)
        assert text in message
        assert message.endswith("remove that folder, and the images are decoded again")
        assert caches(folder) == [name]

    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused_with("images.npy is damaged; expected the pixels whose hash about.json has")
    file.write_bytes(whole[:-9])
    refused_with("images.npy is damaged (")
    np.save(file, np.zeros((4, 6, 5, 3), np.float32))
    refused_with("images.npy is float32 of shape (4, 6, 5, 3); expected uint8")
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    refused_with("images.npy is damaged (")
    file.unlink()
    refused_with("images.npy is damaged (No such file")
    file.write_bytes(whole)
    about.write_text(json.dumps({**json.loads(content), "files": "0" * 64}))
    refused_with("about.json is of other files")
    for text in ("[]", "{", ""):
        about.write_text(text)
        refused_with("about.json")
    about.unlink()
    os.mkfifo(about)
    with pytest.raises(UserError, match="is a FIFO; expected a regular file"):
        load(f"folder:{folder}")
    about.unlink()
    about.write_text(content)
    assert len(load(f"folder:{folder}").train) == 3


def test_where_nothing_can_be_written_every_run_decodes(folder, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded.os, "posix_fallocate", full)
    assert len(load(f"folder:{folder}").train) == 3
    assert not caches(folder)
    (record,) = caplog.records
    assert "cannot be written there (No space left on device)" in record.getMessage()
    message = error(folder, cache=str(folder / "cache"))
    assert "config.data.cache is" in message
    assert "expected a folder with room for them, or none" in message
    assert not caches(folder / "cache")
    monkeypatch.setattr(memory, "available", lambda: 1)
    assert "expected a set that fits in memory" in error(folder)


def test_the_files_of_a_killed_run_are_named_and_stay(folder, caplog):
    (folder / ".decoded-abc.part").mkdir()
    load(f"folder:{folder}")
    assert ".decoded-abc.part: is unfinished" in caplog.records[0].getMessage()
    assert ".decoded-abc.part" in caches(folder)


def test_two_processes_may_decode_at_the_same_time(folder, monkeypatch):
    finish = decoded._Writer.finish

    def second(writer, *arguments):
        monkeypatch.setattr(decoded._Writer, "finish", finish)
        load(f"folder:{folder}")
        finish(writer, *arguments)

    monkeypatch.setattr(decoded._Writer, "finish", second)
    assert len(load(f"folder:{folder}").train) == 3
    assert len(caches(folder)) == 1


def test_images_of_any_sizes_become_squares(folder, caplog):
    wide = np.zeros((40, 60, 3), np.uint8)
    wide[:, 10:50] = 200  # The central square.
    put(folder / "train" / "cat" / "1.png", wide)
    assert "cat/2.png: is 5 wide and 6 high; expected 60 and 40" in error(folder)
    dataset = load(f"folder:{folder}", side=4)
    assert dataset.image_shape == (4, 4, 3)
    assert np.all(dataset.train.images[0] == 200)
    Image.new("CMYK", (9, 7)).save(folder / "train" / "cat" / "3.jpg")
    with caplog.at_level(logging.ERROR):
        assert load(f"folder:{folder}", side=4).train.images[2].min() == 255
        assert len(caches(folder)) == 2
        load(f"folder:{folder}", side=8)
    assert len(caches(folder)) == 3
    with pytest.raises(UserError, match=r"config.data.side is 8; expected None for digits"):
        load("digits", side=8)


def test_resizing_averages_the_pixels_of_a_block(folder):
    # A factor of 2 has the bilinear weights 1, 3, 3, 1 of 8 in each direction.
    image = pixels(3, (8, 8))
    for file in folder.rglob("*.png"):
        put(file, image)
    found = load(f"folder:{folder}", side=4).train.images[0, 1, 1].astype(float)
    weights = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    expected = np.einsum("hw,hwc->c", weights, image[1:5, 1:5].astype(float))
    np.testing.assert_allclose(found, expected, atol=1)


def flat(folder, lines):
    """Moves the test images out of their class folders."""
    (folder / "test").rename(folder / "val")
    for number, name in enumerate(("b.png", "a.png")):
        put(folder / "val" / name, pixels(20 + number))
    (folder / "val" / "dog" / "9.png").unlink()
    (folder / "val" / "dog").rmdir()
    if lines is not None:
        (folder / "val.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("lines", [("b.png 0", "a.png 1"), ("a.png dog", "", "b.png cat")])
def test_test_images_without_class_folders_have_a_list(folder, lines):
    flat(folder, lines)
    test = load(f"folder:{folder}").test
    assert test.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(test.images, [pixels(21), pixels(20)])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, "has images without class folders, as a.png; expected"),
        (("a.png 1",), "val.txt: has no line for b.png; expected"),
        (("a.png 1", "b.png cow"), "line 2 is 'b.png cow'; expected the name of a file, a space"),
        (("a.png 1", "b.png 2"), "a folder of train or its number, 0 to 1"),
        (("a.png 1", "b.png 1", "a.png 0"), "val.txt: line 3 gives a.png another class"),
        (("a.png dog", "b.png 0"), "some of its classes are names of folders of train and some"),
    ],
)
def test_a_wrong_list_of_test_images_is_named(folder, lines, words):
    flat(folder, lines)
    assert words in error(folder)


def test_a_list_is_read_as_names_or_as_numbers_throughout(folder):
    (folder / "train" / "cat").rename(folder / "train" / "1")
    (folder / "train" / "dog").rename(folder / "train" / "2")
    flat(folder, ("b.png 0", "a.png 1"))
    assert load(f"folder:{folder}").test.labels.tolist() == [1, 0]
    (folder / "val.txt").write_text("b.png 1\na.png 1")
    assert "its classes are names of folders of train, and numbers of other" in error(folder)
