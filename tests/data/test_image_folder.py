import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bat_jax.data import images, load
from bat_jax.errors import UserError
from bat_jax.runtime import memory
from tests.data import archives


def pixels(seed, *, gray=False, size=(6, 5)):
    shape = size if gray else (*size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def make(folder, *, gray=False, test="test"):
    """Two classes; returns the training images in the order of ids."""
    images = [pixels(k, gray=gray) for k in range(4)]
    names = ("cat/1.png", "cat/2.bmp", "dog/1.png", "dog/2.tiff")
    for name, image in zip(names, images, strict=True):
        file = folder / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    file = folder / test / "dog" / "9.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(pixels(9, gray=gray)).save(file)
    return np.stack(images)


def error(folder, **options):
    with pytest.raises(UserError) as caught:
        load(f"folder:{folder}", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("test", ["test", "val"])
def test_class_folders_are_read_in_sorted_order(test, tmp_path):
    images = make(tmp_path, test=test)
    (tmp_path / "train" / "cat" / ".DS_Store").write_bytes(b"\0")
    dataset = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(dataset.train.images, images)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert dataset.train.ids.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(dataset.test.images[0], pixels(9))
    assert dataset.test.labels.tolist() == [1]
    assert dataset.class_names == ("cat", "dog")


def test_gray_images_have_one_channel(tmp_path):
    images = make(tmp_path, gray=True)
    dataset = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(dataset.train.images, images[..., np.newaxis])


def test_one_image_in_colour_makes_all_rgb(tmp_path):
    images = make(tmp_path, gray=True)
    Image.fromarray(pixels(9)).save(tmp_path / "test" / "dog" / "9.png")
    dataset = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(dataset.train.images, np.stack([images] * 3, axis=-1))
    assert dataset.image_shape == (6, 5, 3)


def test_a_missing_split_is_reported_with_the_layout(tmp_path):
    assert "has no folder train; expected <folder>/train/<class>" in error(tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    assert "has no folder test or val" in error(tmp_path)
    (tmp_path / "test").mkdir()
    assert "cat: is empty; expected images of class 'cat'" in error(tmp_path)
    (tmp_path / "train" / "cat").rmdir()
    assert "has no class folders" in error(tmp_path)
    assert "is no folder" in error(tmp_path / "nowhere")


def test_a_test_split_without_images_or_with_unknown_classes_is_reported(tmp_path):
    make(tmp_path)
    (tmp_path / "test" / "cow").mkdir()
    assert "has a class 'cow' that" in error(tmp_path)
    (tmp_path / "test" / "cow").rmdir()
    (tmp_path / "test" / "dog" / "9.png").unlink()
    assert "test: has no images" in error(tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_beside_class_folders_are_refused(part, tmp_path):
    make(tmp_path)
    Image.fromarray(pixels(5)).save(tmp_path / part / "loose.PNG")
    (tmp_path / part / "notes.txt").write_text("where the images come from")
    line = error(tmp_path)
    assert f"{part}: has 1 images beside its class folders, as loose.PNG; expected" in line


def test_mixed_sizes_are_reported_with_the_file(tmp_path):
    make(tmp_path)
    Image.fromarray(pixels(0, size=(6, 7))).save(tmp_path / "train" / "dog" / "1.png")
    assert "train/dog/1.png: is 7 wide and 6 high; expected 5 and 6" in error(tmp_path)


@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_16_bit_and_transparent_images_are_refused(where, tmp_path):
    make(tmp_path)
    name, image = [
        ("a.png", Image.fromarray(np.zeros((6, 5), np.uint16))),
        ("a.tiff", Image.fromarray(np.zeros((6, 5), np.float32))),
        ("a.png", Image.new("RGBA", (5, 6))),
        ("a.jpg", Image.new("CMYK", (5, 6))),
    ][where]
    image.save(tmp_path / "train" / "cat" / name)
    assert f"train/cat/{name}: has pixels of mode {image.mode}" in error(tmp_path)
    assert "expected gray or RGB of 8 bits" in error(tmp_path)


def test_16_bit_colours_that_pillow_would_cut_to_8_are_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "train" / "dog" / "a.png").write_bytes(png(5, 6, bits=16))
    assert "train/dog/a.png: has pixels of mode RGB with 16 bits" in error(tmp_path)


def png(width, height, *, bits=8):
    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = zlib.compress(bytes((1 + width * 3 * bits // 8) * min(height, 100)))
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_damaged_images_and_other_files_are_reported(tmp_path):
    make(tmp_path)
    file = tmp_path / "train" / "cat" / "3.jpg"
    file.write_text("notes")
    assert "train/cat/3.jpg: is not an image that can be read" in error(tmp_path)
    whole = archives.encoded(pixels(1), "JPEG")
    file.write_bytes(whole[: len(whole) * 3 // 4])
    assert "train/cat/3.jpg: is" in error(tmp_path)
    file.write_bytes(b"")
    assert "train/cat/3.jpg: is not an image" in error(tmp_path)
    file.unlink()
    file.mkdir()
    assert "3.jpg: is a folder; expected a regular file; remove it" in error(tmp_path)
    file.rmdir()
    file.symlink_to("nowhere")
    assert "3.jpg: cannot be read (No such file" in error(tmp_path)


def test_logs_of_pillow_are_hidden_because_the_error_repeats_them(tmp_path, caplog):
    make(tmp_path)
    whole = archives.encoded(pixels(1), "TIFF")
    samples = struct.pack("<HHI", 277, 3, 1)  # the tag of samples per pixel, a 16-bit number
    at = whole.index(samples) + len(samples)
    damaged = whole[:at] + struct.pack("<H", 5000) + whole[at + 2 :]
    (tmp_path / "train" / "cat" / "3.tiff").write_bytes(damaged)
    assert "3.tiff: is not an image that can be read" in error(tmp_path)
    assert not caplog.records


def test_formats_that_pillow_opens_with_other_programs_are_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "train" / "cat" / "3.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert "train/cat/3.eps: is not an image that can be read" in error(tmp_path)


def test_a_path_in_addition_to_the_name_is_refused(tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match="expected the folder in the name alone"):
        load(f"folder:{tmp_path}", path=tmp_path)


def test_special_files_are_refused(tmp_path):
    make(tmp_path)
    for name, kind in (("fifo.png", "a FIFO"), ("zero.png", "a device")):
        file = tmp_path / "train" / "cat" / name
        if kind == "a FIFO":
            os.mkfifo(file)
        else:
            file.symlink_to("/dev/zero")
        assert f"train/cat/{name}: is {kind}; expected a regular file" in error(tmp_path)
        file.unlink()


def test_system_files_are_skipped(tmp_path):
    whole = make(tmp_path)
    for place in (tmp_path / "train", tmp_path / "train" / "cat", tmp_path / "test" / "dog"):
        for name in ("._1.png", "Thumbs.db", "desktop.ini"):
            (place / name).write_bytes(b"no image")
        for name in ("@eaDir", "lost+found", "__MACOSX"):
            (place / name).mkdir()
    dataset = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(dataset.train.images, whole)
    assert dataset.class_names == ("cat", "dog")


def test_images_too_large_to_train_on_are_refused_before_they_are_decoded(tmp_path):
    make(tmp_path)
    file = tmp_path / "train" / "cat" / "1.png"
    file.write_bytes(png(13_000, 13_000))
    assert "13000 wide and 13000 high, 507,000,000 bytes of pixels; expected at" in error(tmp_path)
    file.write_bytes(png(20_000, 20_000))
    assert "cat/1.png: has more than 67,108,864 bytes of pixels" in error(tmp_path)


def test_a_file_too_long_for_an_image_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LIMIT", 1 << 20)
    make(tmp_path)
    with (tmp_path / "train" / "cat" / "1.png").open("r+b") as file:
        file.truncate(6 << 30)  # takes no space on the disk
    assert "cat/1.png: has more than 1,048,576 bytes" in error(tmp_path)


def test_a_set_that_does_not_fit_in_memory_is_refused(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(memory, "available", lambda: 5 * 6 * 5 * 3 - 1)
    found = error(tmp_path, cache="none")
    assert "5 images, 5 wide and 6 high, need 0.0 GiB, and this machine has" in found
    monkeypatch.setattr(memory, "available", lambda: 5 * 6 * 5 * 3)
    assert len(load(f"folder:{tmp_path}", cache="none").train) == 4


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparent_colours_outside_the_mode_are_refused(mode, tmp_path):
    make(tmp_path)
    colour = (0, 0, 0) if mode == "RGB" else 0
    Image.new(mode, (5, 6)).save(tmp_path / "train" / "cat" / "a.png", transparency=colour)
    assert "cat/a.png: has transparent colours" in error(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_several_frames_or_pages_are_refused(kind, tmp_path):
    make(tmp_path)
    first, second = Image.fromarray(pixels(1)), Image.fromarray(pixels(2))
    file = tmp_path / "train" / "cat" / "a"
    first.save(file, format=kind, save_all=True, append_images=[second])
    assert "cat/a: has several frames or pages" in error(tmp_path)
    first.save(file, format=kind)
    assert len(load(f"folder:{tmp_path}").train) == 5


def test_a_jpeg_with_a_preview_is_its_photograph(tmp_path):
    make(tmp_path)
    first, second = Image.fromarray(pixels(1)), Image.fromarray(pixels(2))
    file = tmp_path / "train" / "cat" / "a.jpg"
    first.save(file, format="MPO", save_all=True, append_images=[second])
    found = load(f"folder:{tmp_path}").train.images[2]
    with Image.open(file) as photograph:
        np.testing.assert_array_equal(found, np.asarray(photograph))


def test_a_line_break_in_a_name_stays_in_the_line(tmp_path):
    make(tmp_path / "my\nimages")
    (tmp_path / "my\nimages" / "train" / "cat" / "a\r\nb.png").write_bytes(b"")
    assert "my images: train/cat/a b.png: is not an image" in error(tmp_path / "my\nimages")
