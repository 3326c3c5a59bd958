import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bat_jax.data import load, tfds_source
from bat_jax.errors import UserError
from bat_jax.runtime import memory
from tests.data import archives

PIXELS, LABELS = archives.random_split(6, 3, (8, 8, 3), seed=0)


def png(pixels):
    return archives.encoded(pixels)


class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Six training and two test images; subclasses introduce errors."""

    VERSION = tfds.core.Version("1.0.0")
    IMAGE = tfds.features.Image(shape=(8, 8, 3), encoding_format="png")
    LABEL = tfds.features.ClassLabel(names=["a", "b", "c"])
    ID = None
    SPLITS = ("train", "test")

    def _info(self):
        features = {"image": self.IMAGE, "label": self.LABEL}
        if self.ID is not None:
            features["id"] = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            homepage="http://made.example",
        )

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in self.SPLITS}

    def _generate_examples(self, part):
        for row in range(6 if part == "train" else 2):
            example = {"image": self.image(row), "label": self.label(row)}
            if self.ID is not None:
                example["id"] = self.ID.format(part=part, row=row)
            yield row, example

    def image(self, row):
        return png(PIXELS[row])

    def label(self, row):
        return int(LABELS[row])


def prepared(folder, name, **what):
    """Prepares a set called `name` in `folder`, as TFDS would have before."""
    builder = type(name, (Made,), {"name": name, **what}, skip_registration=True)
    builder(data_dir=folder, file_format="array_record").download_and_prepare()


def error(name, folder):
    with pytest.raises(UserError) as caught:
        load(name, path=folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ids_are_the_numbers_and_the_order_of_the_source(tmp_path):
    prepared(tmp_path, "made", ID="{part}_{row:05d}")
    dataset = load("tfds:made", path=tmp_path)
    np.testing.assert_array_equal(dataset.train.images, PIXELS)
    np.testing.assert_array_equal(dataset.train.labels, LABELS)
    assert dataset.train.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.test.ids.tolist() == [0, 1]
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.name == "tfds:made"


@pytest.mark.parametrize(
    "ids", [None, "{part}", "{part}_7", "{part}_9999999{row}999", "{part}_{row}" + "9" * 5000]
)
def test_without_unique_ids_positions_are_the_ids(ids, tmp_path):
    prepared(tmp_path, "made", ID=ids)
    train = load("tfds:made", path=tmp_path).train
    assert train.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(image.tobytes() for image in train.images) == sorted(
        image.tobytes() for image in PIXELS
    )


def test_validation_is_the_test_set_if_there_is_no_other(tmp_path):
    prepared(tmp_path, "made", SPLITS=("train", "validation"))
    assert len(load("tfds:made", path=tmp_path).test) == 2


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_comes_from_tfds_in_the_official_order(name, tmp_path, no_network):
    pixels, labels = archives.random_split(6, 10, (32, 32, 3), seed=3)
    prepared(
        tmp_path / "tfds",
        name,
        VERSION=tfds.builder(name).version,
        IMAGE=tfds.features.Image(shape=(32, 32, 3)),
        LABEL=tfds.features.ClassLabel(names=[f"name{k}" for k in range(int(name[5:]))]),
        ID="{part}_{row:05d}",
        image=lambda self, row: png(pixels[row]),
        label=lambda self, row: int(labels[row]),
    )
    dataset = load(name)
    np.testing.assert_array_equal(dataset.train.images, pixels)
    np.testing.assert_array_equal(dataset.train.labels, labels)
    assert dataset.class_names[:2] == ("name0", "name1")
    assert dataset.name == name
    assert not no_network


def test_a_set_without_test_images_is_reported(tmp_path):
    prepared(tmp_path, "made", SPLITS=("train",))
    assert "has no split 'validation', only train" in error("tfds:made", tmp_path)


def test_images_without_a_fixed_size_are_reported(tmp_path):
    prepared(tmp_path, "made", IMAGE=tfds.features.Image())
    assert "'image' has shape (None, None, 3); expected one fixed" in error("tfds:made", tmp_path)


def test_an_image_of_another_size_is_reported(tmp_path):
    prepared(tmp_path, "made", image=lambda self, row: png(PIXELS[row][: 8 - row]))
    assert "has shape (" in error("tfds:made", tmp_path)


def test_nan_and_floats_in_the_data_are_reported(tmp_path):
    image = np.zeros((8, 8, 3), np.float32)
    image[0, 0, 0] = np.nan
    prepared(
        tmp_path,
        "made",
        IMAGE=tfds.features.Tensor(shape=(8, 8, 3), dtype=np.float32),
        image=lambda self, row: image,
    )
    found = error("tfds:made", tmp_path)
    assert "images are float32 with 6 values not finite; expected uint8" in found


def test_a_set_that_does_not_fit_in_memory_is_refused(tmp_path, monkeypatch):
    prepared(tmp_path, "made")
    monkeypatch.setattr(memory, "available", lambda: 6 * 8 * 8 * 3 - 1)
    assert "made train: 6 images, 8 wide and 8 high, need" in error("tfds:made", tmp_path)


def test_labels_that_are_not_classes_are_reported(tmp_path):
    prepared(tmp_path, "made", LABEL=tfds.features.Scalar(np.int64))
    assert "'label' is Scalar; expected ClassLabel" in error("tfds:made", tmp_path)


def test_a_label_out_of_range_is_reported(tmp_path):
    prepared(tmp_path, "made", label=lambda self, row: -1)  # TFDS's mark of an unknown label
    assert "has label -1; expected 0 to 2" in error("tfds:made", tmp_path)


def test_a_damaged_file_is_reported(tmp_path):
    prepared(tmp_path, "made")
    (file,) = tmp_path.glob("made/1.0.0/*train*")
    file.write_bytes(file.read_bytes()[:100])
    assert "tfds:made train: cannot be read from" in error("tfds:made", tmp_path)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("tfds:mnst", "has no data set 'mnst'.*such as mnist"),
        ("tfds:mnist/zzz", "TFDS rejects the name: ValueError"),
        ("tfds:mnist:9.9.9", "TFDS rejects the name: AssertionError"),
        ("tfds:huggingface:mnist", "names a community set"),
        ("tfds:../mnist", "TFDS rejects the name: ValueError"),
    ],
)
def test_names_that_tfds_rejects_are_reported(name, problem):
    with pytest.raises(UserError, match=problem):
        load(name)


def test_a_name_that_is_missing_in_the_data_dir_too_is_reported(tmp_path):
    assert "has no data set 'mnst'" in error("tfds:mnst", tmp_path)


def test_without_a_network_the_error_names_the_files_and_their_place(data_folder, no_network):
    with pytest.raises(UserError) as caught:
        load("tfds:mnist")
    message = str(caught.value)
    assert "there is no network" in message
    assert message.count("https://storage.googleapis.com/cvdf-datasets/mnist/") == 4
    assert f"put them in {data_folder / 'mnist'}" in message
    assert len(no_network[0]) == 4


def test_files_fetched_by_hand_are_not_requested_again(data_folder, no_network):
    (data_folder / "mnist").mkdir()
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (data_folder / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(b"not the real one")
    with pytest.raises(UserError, match=r"TFDS cannot prepare it: .*wrong checksum"):
        load("tfds:mnist")
    assert no_network == [[]]


def test_a_set_to_fetch_by_hand_says_so(data_folder):
    (data_folder / "imagenet2012").mkdir()
    (data_folder / "imagenet2012" / ".DS_Store").write_bytes(b"")
    with pytest.raises(UserError, match=rf"its files are not in {data_folder}.*by hand"):
        load("tfds:imagenet2012")


def test_a_set_that_needs_tensorflow_to_prepare_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)

    class NeedsTensorflow(Made, skip_registration=True):
        def image(self, row):
            return PIXELS[row]  # an array, which TFDS encodes by TensorFlow

    builder = NeedsTensorflow(data_dir=tmp_path, file_format="array_record")
    monkeypatch.setattr(tfds, "builder", lambda *args, **kwargs: builder)
    monkeypatch.setattr(tfds_source.network, "unreachable", lambda urls: None)
    found = error("tfds:needs_tensorflow", tmp_path)
    assert "tensorflow is not installed; pip install tensorflow" in found
    assert not builder.is_prepared()


def test_no_tensorflow_is_imported(tmp_path):
    prepared(tmp_path, "made")
    load("tfds:made", path=tmp_path)
    assert "tensorflow" not in sys.modules


def test_pillow_is_the_decoder_of_reference(tmp_path):
    prepared(tmp_path, "made", ID="{row}")
    found = load("tfds:made", path=tmp_path).train.images[2]
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(png(PIXELS[2])))))
