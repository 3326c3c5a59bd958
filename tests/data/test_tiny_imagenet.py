import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from bat_jax.data import load
from bat_jax.errors import UserError
from tests.data import archives

WNID = archives.WNIDS[1]


def error(path):
    with pytest.raises(UserError) as caught:
        load("tiny_imagenet", path=path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(dataset, files):
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.train.ids.tolist() == [500 * k + n for k in range(3) for n in (0, 7, 14, 21)]
    assert dataset.test.ids.tolist() == [0, 10, 20, 30, 40]
    assert dataset.test.labels.tolist() == [0, 1, 2, 0, 1]
    assert dataset.class_names == ("Egyptian cat", "reel", "goldfish, Carassius auratus")
    assert dataset.image_shape == (64, 64, 3)
    name = f"train/{WNID}/images/{WNID}_14.JPEG"
    np.testing.assert_array_equal(
        dataset.train.images[6], np.asarray(Image.open(io.BytesIO(files[name])))
    )
    gray = np.asarray(Image.open(io.BytesIO(files[f"train/{WNID}/images/{WNID}_0.JPEG"])))
    np.testing.assert_array_equal(dataset.train.images[4], np.stack([gray] * 3, axis=-1))


@pytest.mark.parametrize("top", ["tiny-imagenet-200/", "", "some/other/"])
def test_the_zip_is_read_whatever_its_top_folder(top, tmp_path):
    files = archives.tiny_imagenet_files()
    archives.write_zip(tmp_path / "a.zip", files, top=top)
    check(load("tiny_imagenet", path=tmp_path / "a.zip"), files)


def test_the_folder_reads_as_the_zip_does(tmp_path):
    files = archives.tiny_imagenet_files()
    archives.write_folder(tmp_path / "tiny-imagenet-200", files)
    check(load("tiny_imagenet", path=tmp_path / "tiny-imagenet-200"), files)
    check(load("tiny_imagenet", path=tmp_path), files)


def test_the_zip_is_found_in_the_data_folder(data_folder):
    files = archives.tiny_imagenet_files()
    archives.write_zip(data_folder / "tiny-imagenet-200.zip", files)
    check(load("tiny_imagenet"), files)


def test_without_data_the_error_says_what_to_fetch(data_folder):
    with pytest.raises(UserError) as caught:
        load("tiny_imagenet")
    assert "http://cs231n.stanford.edu/tiny-imagenet-200.zip" in str(caught.value)
    assert f"put it in {data_folder}" in str(caught.value)


def test_truncated_and_corrupt_zips_are_reported(tmp_path):
    file = tmp_path / "a.zip"
    archives.write_zip(file, archives.tiny_imagenet_files())
    whole = file.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert "damaged or incomplete" in error(file)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        name = f"tiny-imagenet-200/train/{WNID}/images/{WNID}_7.JPEG"
        offset = archive.getinfo(name).header_offset + 30 + len(name) + 1000
    flipped = bytearray(whole)
    flipped[offset] ^= 1
    file.write_bytes(flipped)
    assert "damaged or incomplete" in error(file)


def test_an_encrypted_zip_is_reported(tmp_path):
    file = tmp_path / "a.zip"
    archives.write_zip(file, {"wnids.txt": b"n1\n"})
    content = bytearray(file.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index(signature) + flags
        content[at : at + 2] = struct.pack("<H", 1)
    file.write_bytes(content)
    assert "damaged or incomplete" in error(file)


@pytest.mark.parametrize("member", ["../wnids.txt", "/wnids.txt", "a/../../wnids.txt"])
def test_a_member_that_leads_out_of_the_archive_is_refused(member, tmp_path):
    archives.write_zip(tmp_path / "a.zip", {member: b"n1\n"}, top="")
    assert "has a member named" in error(tmp_path / "a.zip")


def jpeg(size=64, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (size, size)).save(file, format="JPEG")
    return file.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
CUT = archives.encoded(NOISE, "JPEG")[:-1000]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("wnids.txt", None, "has no file wnids.txt"),
        ("wnids.txt", b"\n", "wnids.txt: found 0 different classes"),
        ("wnids.txt", b"\xff\xfe", "wnids.txt: found not text"),
        ("words.txt", None, "words.txt"),
        ("val/val_annotations.txt", b"", "found no line for val_0.JPEG"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn1\t0\n", "found class 'n1' for val_0.JPEG"),
        (f"train/{WNID}/images/{WNID}_7.JPEG", jpeg(32), "is 32 wide and 32 high; expected 64"),
        (f"train/{WNID}/images/{WNID}_7.JPEG", CUT, "_7.JPEG: is a damaged image"),
        (f"train/{WNID}/images/{WNID}_7.JPEG", b"", "_7.JPEG: is not an image"),
        (f"train/{WNID}/images/{WNID}_7.JPEG", jpeg(mode="CMYK"), "pixels of mode CMYK"),
        (f"train/{WNID}/images/{WNID}_500.JPEG", jpeg(), "found number 500; expected 0 to 499"),
        (f"train/{WNID}/images/notes.txt", b"", "found notes.txt; expected n"),
        ("val/images/val_99999999999999999999.JPEG", b"", "at most 2147483647; remove it"),
        ("val/images/val_2147483648.JPEG", b"", "found val_2147483648.JPEG; expected"),
        ("val/images/val_00.JPEG", b"", "found the number of val/images/val_0"),
        ("val/val_annotations.txt", b"a\tn1\t0\na\tn2\t0", "found two classes for a"),
        ("wnids.txt", b"../train/n1", "found class '../train/n1'; expected names of folders"),
    ],
    ids=[
        "no classes file",
        "no classes",
        "classes no text",
        "no words",
        "no annotation",
        "unknown class",
        "size",
        "cut image",
        "empty image",
        "colours",
        "number",
        "other file",
        "id beyond 64 bits",
        "id beyond 32 bits",
        "two images of one number",
        "two classes of one image",
        "class outside",
    ],
)
def test_a_wrong_file_is_reported(name, content, problem, tmp_path):
    files = archives.tiny_imagenet_files()
    if content is None:
        del files[name]
    else:
        files[name] = content
    archives.write_zip(tmp_path / "a.zip", files)
    assert problem in error(tmp_path / "a.zip")
    archives.write_folder(tmp_path / "folder", files)
    assert problem in error(tmp_path / "folder")


def test_a_number_of_thousands_of_digits_is_shortened_in_the_error(tmp_path):
    files = archives.tiny_imagenet_files()
    files[f"val/images/val_{'7' * 5000}.JPEG"] = b""
    archives.write_zip(tmp_path / "a.zip", files)
    message = error(tmp_path / "a.zip")
    assert "777.JPEG; expected val_<number>.JPEG" in message
    assert len(message) < 500


def test_system_files_are_skipped(tmp_path):
    files = archives.tiny_imagenet_files()
    for place in ("", "val/", "val/images/", f"train/{WNID}/images/"):
        for name in (".DS_Store", "._x.JPEG", "Thumbs.db", "desktop.ini", "@eaDir/a.JPEG"):
            files[place + name] = b"no image"
    archives.write_zip(tmp_path / "a.zip", {**files, "lost+found/a": b""})
    check(load("tiny_imagenet", path=tmp_path / "a.zip"), files)
    archives.write_folder(tmp_path / "folder", files)
    check(load("tiny_imagenet", path=tmp_path / "folder"), files)


def sorted_files(layout, *, numbers=(0, 10, 20, 30, 40)):
    """The layout after a script has moved the validation images of `numbers` to class folders."""
    files = archives.tiny_imagenet_files()
    for row, number in enumerate((0, 10, 20, 30, 40)):
        if number in numbers:
            folder = layout.format(wnid=archives.WNIDS[row % 3])
            files[f"{folder}/val_{number}.JPEG"] = files.pop(f"val/images/val_{number}.JPEG")
    return files


@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize("layout", ["val/{wnid}", "val/{wnid}/images", "val/images/{wnid}"])
def test_validation_images_in_class_folders_are_read(layout, annotated, tmp_path):
    files = sorted_files(layout)
    if not annotated:
        del files["val/val_annotations.txt"]
    archives.write_zip(tmp_path / "a.zip", files)
    check(load("tiny_imagenet", path=tmp_path / "a.zip"), files)
    archives.write_folder(tmp_path / "folder", files)
    check(load("tiny_imagenet", path=tmp_path / "folder"), files)


def test_partly_moved_or_copied_validation_images_are_read(tmp_path):
    moved = sorted_files("val/{wnid}", numbers=(10, 40))
    archives.write_zip(tmp_path / "moved.zip", moved)
    check(load("tiny_imagenet", path=tmp_path / "moved.zip"), moved)
    copied = archives.tiny_imagenet_files() | moved
    archives.write_zip(tmp_path / "copied.zip", copied)
    check(load("tiny_imagenet", path=tmp_path / "copied.zip"), copied)


def test_contradictory_class_folders_are_refused(tmp_path):
    files = sorted_files("val/{wnid}")
    name = f"val/{archives.WNIDS[0]}/val_0.JPEG"
    files[f"val/{archives.WNIDS[1]}/val_0.JPEG"] = files.pop(name)
    archives.write_zip(tmp_path / "a.zip", files)
    assert f"found class '{archives.WNIDS[1]}'; expected '{archives.WNIDS[0]}'" in error(
        tmp_path / "a.zip"
    )
    files[name] = files[f"val/{archives.WNIDS[1]}/val_0.JPEG"]
    del files["val/val_annotations.txt"]
    archives.write_zip(tmp_path / "a.zip", files)
    assert f"found the number of {name}" in error(tmp_path / "a.zip")


@pytest.mark.parametrize("place", [f"train/{WNID}/images/", "val/images/"])
def test_an_empty_folder_of_images_is_reported(place, tmp_path):
    files = archives.tiny_imagenet_files()
    archives.write_folder(
        tmp_path, {name: files[name] for name in files if not name.startswith(place)}
    )
    assert f"{place.rstrip('/')}: found no image" in error(tmp_path)


@pytest.mark.slow  # a few of its images are read in the builder's tests
def test_the_real_subset_has_the_ids_of_the_whole_set():
    if not archives.REAL_SUBSET.is_file():
        pytest.skip("no subset of the real Tiny ImageNet beside the checkout")
    dataset = load("tiny_imagenet", path=archives.REAL_SUBSET)
    assert dataset.train.images.shape == (10_000, 64, 64, 3)
    assert dataset.test.images.shape == (2_000, 64, 64, 3)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [50] * 200)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [10] * 200)
    np.testing.assert_array_equal(dataset.train.ids // 500, dataset.train.labels)
    assert dataset.test.ids.max() < 10_000
    assert len(set(dataset.class_names)) == 200
    assert dataset.class_names[0] == "Egyptian cat"
