"""Memorization and influence estimates, and the file that holds them.

Source: Feldman & Zhang, What Neural Networks Memorize and Why, arXiv:2008.03703. Files have the
layout of the `cifar100_infl_matrix.npz` that they released, with optional keys of our own.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from bat_jax.errors import UserError
from bat_jax.memorization.estimator import Influence
from bat_jax.runtime.arrays import Archive, Expected, opened
from bat_jax.runtime.files import write_npz
from bat_jax.runtime.storage import AnyPath, as_path

_MATRIX = "infl_matrix_class"
_WHAT = "memorization estimates (memorization.npz, or the released cifar100_infl_matrix.npz)"
_ARRAYS = {
    "tr_labels": Expected("integers", ("train",), low=0),
    "tt_labels": Expected("integers", ("test",), low=0),
    "tr_mem": Expected("numbers", ("train",), nan=True),
    "tr_ids": Expected("integers", ("train",), low=0, unique=True, optional=True),
    "tt_ids": Expected("integers", ("test",), low=0, unique=True, optional=True),
}
# Our own keys: the field of `Estimates` that each becomes, and what it holds.
_OURS = {
    "tr_mem_se": (
        "memorization_se",
        Expected("numbers", ("train",), low=0, nan=True, optional=True),
    ),
    "tr_in_count": ("in_count", Expected("integers", ("train",), low=0, optional=True)),
    "tr_out_count": ("out_count", Expected("integers", ("train",), low=0, optional=True)),
    "dataset": ("dataset", Expected("text", optional=True)),
    "statistic": ("statistic", Expected("text", optional=True)),
    "estimator": ("estimator", Expected("text", optional=True)),
    "training": ("training", Expected("text", optional=True)),
    "inputs": ("inputs", Expected("text", optional=True)),
    "classes": (
        "classes",
        Expected("integers", ("classes",), low=0, unique=True, optional=True),
    ),
}


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Estimates for a data set. The released file lacks all fields after `influence`.

    Attributes:
      source: the file that they were read from, for messages.
      memorization: mem(i) of the training examples, NaN where it is undefined.
      train_labels: labels of the training examples.
      test_labels: labels of the test examples.
      train_ids: indices of the training examples in the source's order.
      test_ids: indices of the test examples in the source's order.
      influence: blocks of the influence matrix; empty if it was not estimated.
      memorization_se: standard errors of mem(i).
      in_count: number of models whose subset has the example.
      out_count: number of models whose subset lacks the example.
      dataset: name of the data set.
      statistic: the score of the models, `correct` or `probability`.
      training: the method that trained the models.
      inputs: the images that the models were scored on, `clean` or `adversarial`.
      estimator: `margin`; None for the difference of mean scores.
      classes: if the models knew some classes of a set alone, the label there of each label here.
    """

    source: str
    memorization: Float[np.ndarray, " train"]
    train_labels: Int[np.ndarray, " train"]
    test_labels: Int[np.ndarray, " test"]
    train_ids: Int64[np.ndarray, " train"]
    test_ids: Int64[np.ndarray, " test"]
    influence: tuple[Influence, ...]
    memorization_se: Float[np.ndarray, " train"] | None = None
    in_count: Int[np.ndarray, " train"] | None = None
    out_count: Int[np.ndarray, " train"] | None = None
    dataset: str | None = None
    statistic: str | None = None
    training: str | None = None
    inputs: str | None = None
    estimator: str | None = None
    classes: tuple[int, ...] | None = None

    def digest(self) -> str:
        """Returns a hash of memorization, influence and the ids that they belong to."""
        digest = hashlib.sha256()
        for array in (
            self.memorization,
            self.train_ids,
            self.test_ids,
            *(array for block in self.influence for array in block[:3]),
        ):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def load(path: str | AnyPath) -> Estimates:
    """Reads estimates, ours or in the released layout. Pickled arrays are refused.

    Raises:
      UserError: the file is missing or cannot be read, or an array of it is wrong.
    """
    source = str(path)
    with opened(as_path(path), _WHAT) as archive:
        arrays = archive.read(_ARRAYS)
        train, test = len(arrays["tr_labels"]), len(arrays["tt_labels"])
        if not train or not test:
            raise UserError(
                f"{source}: {train} training and {test} test labels; expected some of both"
            )
        ours = archive.read({key: expected for key, (_, expected) in _OURS.items()})
        influence = tuple(_blocks(archive, train=train, test=test))
    fields: dict[str, Any] = {
        _OURS[key][0]: str(value) if _OURS[key][1].kind == "text" else value
        for key, value in ours.items()
    }
    if "classes" in fields:
        fields["classes"] = tuple(fields["classes"].tolist())
    return Estimates(
        source=source,
        memorization=arrays["tr_mem"],
        train_labels=arrays["tr_labels"],
        test_labels=arrays["tt_labels"],
        train_ids=arrays.get("tr_ids", np.arange(train)),
        test_ids=arrays.get("tt_ids", np.arange(test)),
        influence=influence,
        **fields,
    )


def save(path: AnyPath, estimates: Estimates) -> None:
    """Writes estimates in the released layout, with our own keys.

    Influence is written class by class and, if all pairs are known, also as one matrix `infl`.
    """
    arrays: dict[str, Any] = {
        "tr_labels": estimates.train_labels,
        "tt_labels": estimates.test_labels,
        "tr_mem": estimates.memorization,
        "tr_ids": estimates.train_ids,
        "tt_ids": estimates.test_ids,
    }
    for key, (field, _) in _OURS.items():
        value = getattr(estimates, field)
        if value is not None:
            arrays[key] = np.asarray(value)
    for block in estimates.influence:
        if block.values.shape == (len(estimates.train_ids), len(estimates.test_ids)):
            arrays["infl"], arrays["infl_se"] = block.values, _errors(block)
        for label in np.unique(estimates.train_labels[block.train]):
            rows = np.flatnonzero(estimates.train_labels[block.train] == label)
            columns = np.flatnonzero(estimates.test_labels[block.test] == label)
            part = np.ix_(rows, columns)
            arrays[f"tr_classidx_{label}"] = block.train[rows]
            arrays[f"tt_classidx_{label}"] = block.test[columns]
            arrays[f"infl_matrix_class{label}"] = block.values[part]
            arrays[f"infl_se_class{label}"] = _errors(block)[part]
    write_npz(path, arrays)


def _blocks(archive: Archive, *, train: int, test: int) -> Iterator[Influence]:
    """Yields the blocks of influence of a file: all pairs at once if it has them, or by class."""
    if "infl" in archive.names:
        yield _block(
            archive, ("infl", "infl_se"), ("train", "test"), (np.arange(train), np.arange(test))
        )
        return
    for name in archive.names:
        if name.startswith(_MATRIX):
            number = name.removeprefix(_MATRIX)
            axes = f"tr_classidx_{number}", f"tt_classidx_{number}"
            places = archive.read(
                {
                    axis: Expected("integers", (axis,), rows_of=rows_of, unique=True)
                    for axis, rows_of in zip(axes, ("train", "test"), strict=True)
                }
            )
            yield _block(
                archive, (name, f"infl_se_class{number}"), axes, (places[axes[0]], places[axes[1]])
            )


def _block(
    archive: Archive,
    keys: tuple[str, str],
    axes: tuple[str, str],
    places: tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " columns"]],
) -> Influence:
    """Returns a block of influence, with its standard errors if the file has them."""
    key, error_key = keys
    found = archive.read(
        {
            key: Expected("numbers", axes, nan=True),
            error_key: Expected("numbers", axes, low=0, nan=True, optional=True),
        }
    )
    return Influence(*places, found[key], found.get(error_key))


def _errors(block: Influence) -> Float[np.ndarray, "rows columns"]:
    """Returns the standard errors of a block, NaN if they are unknown."""
    if block.standard_error is None:
        return np.full(block.values.shape, np.nan, np.float32)
    return block.standard_error
