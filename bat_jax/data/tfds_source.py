"""Reads image classification sets of TensorFlow Datasets (TFDS) without TensorFlow."""

import contextlib
import difflib
import importlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from bat_jax.data import network
from bat_jax.data.dataset import IDS, Dataset, Split
from bat_jax.data.images import check_memory
from bat_jax.data.places import check_labels, data_folder, data_folder_text
from bat_jax.data.reading import is_stray
from bat_jax.errors import UserError

# Modules whose import registers a builder.
_OURS = {"tiny_imagenet": "bat_jax.data.tiny_imagenet_builder"}


def read(
    builder_name: str,
    *,
    name: str | None = None,
    data_dir: Path | None = None,
    instruction: str | None = None,
) -> Dataset:
    """Reads a set with the features `image` and `label`, and prepares it first if necessary.

    Reference: https://www.tensorflow.org/datasets/catalog/overview. The test set is the split
    `test`, or else `validation`. If the examples have a feature `id` that is or ends in a number,
    such as b"train_16399", these numbers are the ids and examples are sorted by them, into the
    order of the source. Otherwise an id is a position in TFDS's order, which preparation shuffles
    once.

    Args:
      builder_name: name[/config][:version], as in `tfds.builder`.
      name: the name of the result; by default `builder_name`.
      data_dir: the folder of prepared sets; by default `$TFDS_DATA_DIR`, else
        ~/tensorflow_datasets.
      instruction: what a user should do without a network, if simpler than fetching TFDS's files.
    """
    name = name or builder_name
    if not (data_dir or os.environ.get("TFDS_DATA_DIR") or _has_home()):
        raise UserError(
            f"{name}: there is no home folder for TFDS's sets; expected another folder for them;"
            f" {f'{instruction}, or ' if instruction else ''}set TFDS_DATA_DIR"
        )
    with _quiet():
        builder = _builder(builder_name, name, data_dir)
        if not builder.is_prepared():
            _prepare(builder, name, instruction)
        return _dataset(builder, name)


def _has_home() -> bool:
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def _dataset(builder: Any, name: str) -> Dataset:
    features = builder.info.features
    missing = [field for field in ("image", "label") if field not in (features or {})]
    if missing:
        raise UserError(
            f"{name}: has no feature {missing[0]!r}, only {', '.join(features or {}) or 'none'};"
            " expected an image classification set"
        )
    splits = list(builder.info.splits)
    test = "test" if "test" in splits else "validation"
    absent = [part for part in ("train", test) if part not in splits]
    if absent:
        raise UserError(
            f"{name}: has no split {absent[0]!r}, only {', '.join(splits) or 'none'}; expected"
            " train, and test or validation"
        )
    shape = tuple(features["image"].shape)
    if len(shape) != 3 or None in shape:
        raise UserError(
            f"{name}: feature 'image' has shape {shape}; expected one fixed (height, width,"
            " channels); resize the images and load them as folder:<path>"
        )
    if not hasattr(features["label"], "names"):
        raise UserError(
            f"{name}: feature 'label' is {type(features['label']).__name__}; expected ClassLabel"
        )
    names = tuple(str(label) for label in features["label"].names)
    return Dataset(
        name,
        train=_split(builder, name, "train", len(names)),
        test=_split(builder, name, test, len(names)),
        class_names=names,
    )


def _builder(builder_name: str, name: str, data_dir: Path | None) -> Any:
    with _one_line(f"{name}: TFDS cannot be imported"):
        import tensorflow_datasets as tfds  # Imported here, as it takes two seconds.
    place = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    bare = re.split("[/:]", builder_name)[0]
    if bare in _OURS:
        importlib.import_module(_OURS[bare])
    if re.match(r"\w*:(?![\d*])", builder_name):
        raise UserError(
            f"{name}: names a community set; expected one of TFDS's own sets,"
            " <name>[/<config>][:<version>]; see"
            " https://www.tensorflow.org/datasets/catalog/overview"
        )
    with _one_line(f"{name}: TFDS rejects the name"):
        try:
            return tfds.builder(builder_name, data_dir=place, file_format="array_record")
        except tfds.core.DatasetNotFoundError as error:
            known = tfds.list_builders(with_community_datasets=False)
            close = difflib.get_close_matches(bare, known, n=3)
            raise UserError(
                f"{name}: TFDS {tfds.__version__} has no data set {bare!r}; expected one of its"
                f" {len(known)} names{', such as ' * bool(close)}{', '.join(close)}; see"
                " https://www.tensorflow.org/datasets/catalog/overview"
            ) from error


def _prepare(builder: Any, name: str, instruction: str | None) -> None:
    import tensorflow_datasets as tfds

    # TFDS finds files here that a user fetched by hand, if they have the server's names.
    folder = data_folder()
    by_hand = folder and folder / builder.name
    place = data_folder_text(builder.name)
    if builder.name in _OURS and not (by_hand and by_hand.is_dir()):
        by_hand, place = folder, data_folder_text()
    by_instruction = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if by_instruction and not _has_files(by_hand):
        raise UserError(
            f"{name}: not prepared in {builder.data_dir}, and its files are not in {place}; put"
            f" them there by hand: {' '.join(by_instruction.split())}"
        )
    downloads = builder.url_infos or {}
    needed = [url for url, info in downloads.items() if not _fetched(by_hand, info)]
    if not downloads and not by_instruction:
        problem = network.unreachable([builder.info.homepage])  # Its downloads are unknown.
    else:
        problem = network.unreachable(needed)
    if problem is not None:
        raise UserError(
            f"{name}: not prepared in {builder.data_dir}, and {problem}; without a network,"
            f" {instruction or _by_hand(builder, needed, place)}"
        )
    config = tfds.download.DownloadConfig(manual_dir=by_hand, try_download_gcs=False)
    # TFDS prints a banner when TensorFlow is missing; the error below says so in one line.
    with _one_line(f"{name}: TFDS cannot prepare it"), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)


def _has_files(folder: Path | None) -> bool:
    if folder is None or not folder.is_dir():
        return False
    return not all(is_stray(file.name) for file in folder.iterdir())


def _fetched(folder: Path | None, info: Any) -> bool:
    return folder is not None and bool(info.filename) and (folder / info.filename).is_file()


def _by_hand(builder: Any, urls: Sequence[str], place: str) -> str:
    if urls:
        return f"fetch {' '.join(urls)} and put {'them' if len(urls) > 1 else 'it'} in {place}"
    return f"prepare it elsewhere and copy the folder {builder.data_dir}"


def _split(builder: Any, name: str, part: str, num_classes: int) -> Split:
    where = f"{name} {part}"
    feature = builder.info.features["image"]
    with _one_line(f"{where}: cannot be read from {builder.data_dir}"):
        source = builder.as_data_source(split=part)
        check_memory(len(source), feature.shape, where=where)
        images = np.empty((len(source), *feature.shape), feature.np_dtype)
        labels = np.empty(len(source), np.int32)
        numbers: list[int | None] = []
        for row, example in enumerate(source):
            image = np.asarray(example["image"])
            if image.shape != images.shape[1:]:
                raise UserError(
                    f"{where}: example {row} has shape {image.shape}; expected {images.shape[1:]};"
                    f" remove {builder.data_dir} and prepare it again"
                )
            images[row], labels[row] = image, example["label"]
            numbers.append(_number(example.get("id")))
    check_labels(labels, num_classes, where=where, remedy=f"prepare {builder.data_dir} again")
    ids = np.array([number for number in numbers if number is not None], np.int64)
    if len(np.unique(ids)) < len(images):  # Ids are absent or not unique.
        return Split(images, labels, np.arange(len(images), dtype=np.int64))
    order = np.argsort(ids)
    if np.array_equal(order, np.arange(len(order))):
        return Split(images, labels, ids)
    return Split(images, labels, ids).take(order)


def _number(value: Any) -> int | None:
    """Returns the number that an example's id is or ends in, or None if it is not an int32."""
    if isinstance(value, bytes):
        match = re.search(rb"(?:^|\D)0*(\d{1,10})$", value)
        value = int(match[1]) if match else None
    if isinstance(value, int | np.integer) and IDS.min <= value <= IDS.max:
        return int(value)
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's warnings and log lines, which are meant for its developers."""
    before = logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.ERROR)
        try:
            yield
        finally:
            logging.set_verbosity(before)


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Raises a one-line UserError for anything that TFDS or one of its builders raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        module = _missing_module(error)
        if module is not None:
            raise UserError(f"{what}: {module} is not installed; pip install {module}") from error
        lines = str(error).strip().splitlines() or [""]
        raise UserError(f"{what}: {type(error).__name__}: {lines[0]}") from error


def _missing_module(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return None
