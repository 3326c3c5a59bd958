"""The findings of an audit: the content of audit.json, and its table and text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from bat_jax.data.audit import duplicates
from bat_jax.data.dataset import Dataset, Split
from bat_jax.data.images import check_memory
from bat_jax.data.mapped import AT_ONCE
from bat_jax.runtime import schema
from bat_jax.runtime.schema import ListOf, Number, Object, Text
from bat_jax.runtime.storage import AnyPath

FILE = "audit.json"
TOLERANCE = 0.2
_SHOWN = 10  # Entries of a list in the text.

_COUNT = Number(low=0, whole=True)
_ID = Number(whole=True)
_IDS = ListOf(_ID)
_NEAR = ListOf(
    Object(
        {
            "ids": ListOf(_ID, length=2),
            "labels": ListOf(Text(), length=2),
            "difference": Number(low=0, high=1),
        }
    )
)
_COPIES = ListOf(Object({"train": _IDS, "test": _IDS, "labels": ListOf(Text())}))
_PART = Object(
    {
        "digest": Text(),
        "images": _COUNT,
        "images_by_class": Object(others=_COUNT),
        "constant_images": _COUNT,
        "constant_image_ids": _IDS,
        "duplicate_groups": _COUNT,
        "duplicate_group_ids": ListOf(_IDS),
        "near_duplicate_pairs": _COUNT,
        "near_duplicates": _NEAR,
    }
)
_AUDIT = Object(
    {
        "name": Text(),
        "tolerance": Number(low=0, high=1),
        "train": _PART,
        "test": _PART,
        "test_images_in_train": _COUNT,
        "copies_across": _COPIES,
        "near_duplicate_pairs": _COUNT,
        "near_duplicates": _NEAR,
        "pictures_with_several_labels": _COUNT,
        "copies_with_several_labels": _COPIES,
    }
)


def audit(dataset: Dataset, *, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Returns the content of audit.json: counts, with the ids behind each of them.

    `train` and `test` hold the findings within each split. Of pairs of a training and a test image,
    `copies_across` lists equal ones and `near_duplicates` near duplicates.
    `copies_with_several_labels` lists equal images of different classes, within a split or across.
    The audit needs memory for a second copy of the images.

    Args:
      dataset: the data set.
      tolerance: the largest difference of near duplicates (`bat_jax.data.audit.duplicates`).
    """
    train, test = dataset.train, dataset.test
    check_memory(len(train) + len(test), dataset.image_shape, where=dataset.name)
    images = _together(train, test)
    ids = np.concatenate([train.ids, test.ids])
    names = np.array(dataset.unique_names)[np.concatenate([train.labels, test.labels])]
    groups = duplicates.equal(images)
    near = duplicates.near(images, tolerance=tolerance)
    in_test = np.sum(near.rows >= len(train), axis=1)  # 1 is a pair across the splits.

    def pairs(count: int) -> list[dict[str, Any]]:
        chosen = in_test == count
        return [
            {
                "ids": ids[rows].tolist(),
                "labels": names[rows].tolist(),
                "difference": round(float(difference), 4),
            }
            for rows, difference in zip(near.rows[chosen], near.difference[chosen], strict=True)
        ]

    def copies(rows: Int64[np.ndarray, " rows"]) -> dict[str, Any]:
        return {
            "train": ids[rows[rows < len(train)]].tolist(),
            "test": ids[rows[rows >= len(train)]].tolist(),
            "labels": list(dict.fromkeys(names[rows].tolist())),
        }

    found = [copies(rows) for rows in groups]
    across = [one for one in found if one["train"] and one["test"]]
    several = [one for one in found if len(one["labels"]) > 1]
    return {
        "name": dataset.name,
        "tolerance": tolerance,
        "train": _part(
            dataset, train, images[: len(train)], [one["train"] for one in found], pairs(0)
        ),
        "test": _part(
            dataset, test, images[len(train) :], [one["test"] for one in found], pairs(2)
        ),
        "test_images_in_train": sum(len(one["test"]) for one in across),
        "copies_across": across,
        "near_duplicate_pairs": int(np.sum(in_test == 1)),
        "near_duplicates": pairs(1),
        "pictures_with_several_labels": len(several),
        "copies_with_several_labels": several,
    }


def _together(*splits: Split) -> UInt8[np.ndarray, "images height width channels"]:
    """Returns the images of all splits, of which at most one array is read from a file."""
    count, shape = sum(map(len, splits)), splits[0].images.shape[1:]
    images, end = np.empty((count, *shape), np.uint8), 0
    for split in splits:
        for start in range(0, len(split), AT_ONCE):
            some = np.asarray(split.images[start : start + AT_ONCE])
            images[end : end + len(some)] = some
            end += len(some)
    return images


def _part(
    dataset: Dataset,
    split: Split,
    images: UInt8[np.ndarray, "images height width channels"],
    groups: Sequence[list[int]],
    near: list[dict[str, Any]],
) -> dict[str, Any]:
    """Returns the findings within a split."""
    constant = split.ids[duplicates.contrast(images) == 0].tolist()
    groups = [ids for ids in groups if len(ids) > 1]
    sizes = np.bincount(split.labels, minlength=dataset.num_classes).tolist()
    return {
        "digest": split.digest(),
        "images": len(split),
        "images_by_class": dict(zip(dataset.unique_names, sizes, strict=True)),
        "constant_images": len(constant),
        "constant_image_ids": constant,
        "duplicate_groups": len(groups),
        "duplicate_group_ids": groups,
        "near_duplicate_pairs": len(near),
        "near_duplicates": near,
    }


def read(path: AnyPath) -> Mapping[str, Any]:
    """Reads audit.json.

    Raises:
      UserError: the file is missing or damaged.
      OSError: a system error prevented reading it.
    """
    return schema.read(path, _AUDIT, "an audit of a data set")


def table(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns rows of counts, within the training set, within the test set and across them."""
    parts = found["train"], found["test"]

    def of_parts(name: str) -> tuple[str, str]:
        return f"{parts[0][name]:,}", f"{parts[1][name]:,}"

    def with_two_labels(pairs: Sequence[Mapping[str, Any]]) -> str:
        return f"{sum(len(set(pair['labels'])) > 1 for pair in pairs):,}"

    sizes = [part["images_by_class"].values() for part in parts]
    return [
        ("images", *of_parts("images"), ""),
        ("images in the smallest class", *(f"{min(counts):,}" for counts in sizes), ""),
        ("images in the largest class", *(f"{max(counts):,}" for counts in sizes), ""),
        ("images of one colour", *of_parts("constant_images"), ""),
        ("groups of equal images", *of_parts("duplicate_groups"), ""),
        ("test images that are training images", "", "", f"{found['test_images_in_train']:,}"),
        ("pictures with several labels", "", "", f"{found['pictures_with_several_labels']:,}"),
        (
            "pairs of near duplicates",
            *of_parts("near_duplicate_pairs"),
            f"{found['near_duplicate_pairs']:,}",
        ),
        (
            "pairs of near duplicates with two labels",
            *(with_two_labels(part["near_duplicates"]) for part in (*parts, found)),
        ),
    ]


def text(found: Mapping[str, Any]) -> str:
    """Returns the table and the first ids of each list, for a terminal."""
    lines = [f"{found['name']}, {len(found['train']['images_by_class'])} classes"]
    for row in [("", "train", "test", "across"), *table(found)]:
        lines.append(f"{row[0]:<42}{row[1]:>9}{row[2]:>9}{row[3]:>8}".rstrip())
    for name in ("train", "test"):
        part = found[name]
        lines += _listed(f"{name}, ids of one colour", map(str, part["constant_image_ids"]))
        lines += _listed(f"{name}, equal", map(_equal, part["duplicate_group_ids"]))
        lines += _listed(f"{name}, near duplicates", map(_near, part["near_duplicates"]))
    lines += _listed("test = train", map(_across, found["copies_across"]))
    lines += _listed("train, test: near duplicates", map(_near, found["near_duplicates"]))
    lines += _listed(
        "several labels",
        (
            f"{_across(one)}: {', '.join(one['labels'])}"
            for one in found["copies_with_several_labels"]
        ),
    )
    return "\n".join(lines)


def _listed(title: str, entries: Iterable[str]) -> list[str]:
    """Returns a line with the first entries, or none."""
    all_entries = list(entries)
    more = len(all_entries) - _SHOWN
    rest = f"; {more:,} more (--json has all)" if more > 0 else ""
    return [f"{title}: {'; '.join(all_entries[:_SHOWN])}{rest}"] if all_entries else []


def _equal(ids: Sequence[int]) -> str:
    return " = ".join(map(str, ids))


def _across(copies: Mapping[str, Any]) -> str:
    """Returns equal images of both splits, as `test 7 = train 5`."""
    return " = ".join(f"{part} {one}" for part in ("test", "train") for one in copies[part])


def _near(pair: Mapping[str, Any]) -> str:
    labels = " / ".join(dict.fromkeys(pair["labels"]))
    return f"{', '.join(map(str, pair['ids']))} ({labels}, {pair['difference']:.2f})"
