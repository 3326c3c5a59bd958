"""Reads a finished run from its folder."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from bat_jax.errors import UserError
from bat_jax.evaluation.groups import KINDS
from bat_jax.evaluation.records import (
    EVALUATED,
    GROUPS,
    Evaluation,
    Measure,
    evaluations,
)
from bat_jax.runtime import schema
from bat_jax.runtime.schema import ListOf, Maybe, Number, Object, Place, ShapeError, Text
from bat_jax.runtime.storage import AnyPath, as_path

_COUNT = Number(low=0, whole=True)
_PART = Number(low=0, high=1)
ACCURACY = Object(
    {"accuracy": _PART, "n": Number(low=1, whole=True), "interval": ListOf(_PART, length=2)}
)
"""The shape of an accuracy with its interval, in results.json and beside it."""
_MEASURES = "a measure, as clean, pgd20, pgd20_margin or autoattack"
_GROUP = Object({"clean": ACCURACY}, {}, ACCURACY, Measure.is_key, _MEASURES)
_TEST = Object(
    {"clean": ACCURACY},
    dict.fromkeys(GROUPS, _GROUP),
    ACCURACY,
    Measure.is_key,
    f"{_MEASURES}, or {' or '.join(GROUPS)}",
)
_SAMPLE = Object(
    {
        "attacks": ListOf(Text(), shortest=1),
        "images": _COUNT,
        "drawn": _COUNT,
        "broken": _COUNT,
        "interval": ListOf(_PART, length=2),
    }
)
_VERSIONS = Object(
    {"mean": ACCURACY}, {}, ACCURACY, ("1", "2", "3", "4", "5").__contains__, "1 to 5"
)
_CORRUPTIONS = Object({"mean": ACCURACY, "by": Object(others=_VERSIONS)})
_STATE = Object(
    {"test": _TEST},
    {
        "broken_by": Object(others=_COUNT),
        "sample": _SAMPLE,
        "corruptions": _CORRUPTIONS,
        "by": Object(
            {},
            dict.fromkeys(KINDS, Object(others=_GROUP)),
            None,
            KINDS.__contains__,
            " or ".join(KINDS),
        ),
    },
)
_SECONDS = Number(low=0)
_ATTACK_SECONDS = Object({}, dict.fromkeys(EVALUATED, Object(others=_SECONDS)))
RESULTS = Object(
    {"seconds": _SECONDS},
    {**dict.fromkeys(EVALUATED, _STATE), "attack_seconds": _ATTACK_SECONDS},
)

_RECORD = Object({"step": _COUNT, "epoch": Number(low=0), "split": Text()}, {}, Number())

# The fields of config.json that readers rely on, for any job; then for trainings and evaluations.
ABOUT = Object(
    {
        "config": Object({"job": Text(), "data": Object({"name": Text()})}),
        "data": Object(others=Text()),
        "versions": Object({"jax": Maybe(Text())}, {}, Maybe(Text())),
        "git": Maybe(Text()),
        "devices": ListOf(Text(), shortest=1),
    }
)
_CONFIG = Object(
    {
        "job": Text(),
        "seed": Number(whole=True),
        "data": Object({"name": Text(), "subset": _COUNT, "validation": _COUNT}),
        "model": Object({"name": Text(), "width": Maybe(_COUNT)}),
        "objective": Object({"name": Text()}, {"awp": Object({}, {"gamma": Number(low=0)})}),
        "attack": Object(
            {
                "norm": Text(),
                "epsilon": Number(low=0),
                "step_size": Number(low=0),
                "num_steps": _COUNT,
            }
        ),
        "train": Object({"steps": Maybe(_COUNT), "epochs": Number(low=0), "batch_size": _COUNT}),
        "memorization": Object({"estimates": Maybe(Text()), "threshold": Number()}),
    }
)
_FINISHED = "a finished run: run its command to the end"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, or a finished evaluation of one.

    Attributes:
      folder: its folder.
      config: the plain config.
      about: the rest of config.json: versions, commit, devices, data digests.
      results: results.json.
      records: the lines of metrics.jsonl; none for an evaluation.
      examples: examples.npz: per test image its id, label and verdicts.
    """

    folder: AnyPath
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    results: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    examples: Mapping[str, Shaped[np.ndarray, " images"]]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @functools.cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """The states that were evaluated, `best` first, each with its accuracies."""
        return evaluations(self.results)

    @property
    def attack(self) -> Measure:
        """The strongest attack on the first evaluated state."""
        return self.evaluations[self.states[0]].attack

    @property
    def states(self) -> tuple[str, ...]:
        """The evaluated states, among `best` and `last`; or `weights`, those of a file."""
        return tuple(state for state in EVALUATED if state in self.results)

    def series(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """Returns the epochs and values of a metric recorded for a split."""
        rows = [r for r in self.records if r["split"] == split and name in r]
        return [float(r["epoch"]) for r in rows], [float(r[name]) for r in rows]


def read(folder: str | AnyPath) -> Run:
    """Reads a finished run.

    Raises:
      UserError: the folder is no run, the run is not finished, or one of its files is damaged.
      OSError: a system error prevented reading a file.
    """
    folder = as_path(folder)
    about = dict(read_about(folder))
    job = about["config"]["job"]
    if job in ("memorization", "findings"):
        raise UserError(f"{folder}: is a run of the job {job}; expected training or evaluation")
    results = read_results(folder / "results.json")
    config = _CONFIG.check(about.pop("config"), Place(str(folder / "config.json"), "config"))
    metrics = folder / "metrics.jsonl"
    records = tuple(record for _, record in read_records(metrics)) if metrics.exists() else ()
    examples = _read_examples(folder / "examples.npz", evaluations(results))
    return Run(folder, config, about, results, records, examples)


def read_about(folder: AnyPath) -> Mapping[str, Any]:
    """Reads config.json of a run of any job.

    Raises:
      UserError: the file is missing or damaged.
      OSError: a system error prevented reading it.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder}: has no config.json; expected the folder of a run")
    return schema.read(path, ABOUT, "the config of a run")


def read_results(path: AnyPath) -> Mapping[str, Any]:
    """Reads results.json of a finished training or evaluation.

    Raises:
      UserError: the file is missing or damaged.
      OSError: a system error prevented reading it.
    """
    if not path.exists():
        raise UserError(f"{path.parent}: has no results.json; expected {_FINISHED}")
    results = schema.read(path, RESULTS, _FINISHED)
    if not any(state in results for state in EVALUATED):
        raise ShapeError(f"{path}: has no {' or '.join(EVALUATED)}; expected one of them")
    return results


def read_records(path: AnyPath) -> list[tuple[bytes, Mapping[str, Any]]]:
    """Reads metrics.jsonl: each record as the bytes of its line and as its content.

    Ignores an incomplete last line, as a killed run leaves it.

    Raises:
      UserError: a line is damaged, or the path is not a regular file.
      OSError: a system error prevented reading the file.
    """
    found, damage = scan_records(path)
    if damage:
        raise damage[0]
    return found


def scan_records(
    path: AnyPath,
) -> tuple[list[tuple[bytes, Mapping[str, Any]]], list[ShapeError]]:
    """Returns the intact records of metrics.jsonl, and an error for each damaged line.

    Raises:
      UserError: the path is not a regular file.
      OSError: a system error prevented reading the file.
    """
    found, damage = [], []
    lines = schema.read_plain(path, "the records of a run").split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = schema.parse(line, _RECORD, Place(f"{path}: line {number}"))
        except ShapeError as error:
            # Text after the last line break is a line whose writer was killed.
            if number < len(lines):
                damage.append(error)
            continue
        found.append((line + b"\n", record))
    return found, damage


def _read_examples(
    path: AnyPath, found: Mapping[str, Evaluation]
) -> dict[str, Shaped[np.ndarray, " images"]]:
    """Reads examples.npz, with the verdicts behind every accuracy in results.json."""
    what = "the verdicts of a finished run"
    if not path.exists():
        raise UserError(f"{path}: no such file; expected {what}: {_FINISHED}")
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file; expected {what}")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            examples = {name: file[name] for name in file.files}
    # For invalid files, zipfile, zlib and NumPy raise errors without a common class.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ShapeError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); expected a whole .npz file"
            " of plain arrays"
        ) from None
    measures = {f"{state}_{m.key}": one.all[m].n for state, one in found.items() for m in one.all}
    images = next(iter(measures.values()))
    for name in ("ids", "labels", *measures):
        if name not in examples:
            raise ShapeError(f"{path}: has no {name}; expected {what}")
        array = examples[name]
        kinds, words = ("b", "booleans") if name in measures else ("iu", "integers")
        if array.dtype.kind not in kinds or array.shape != (measures.get(name, images),):
            raise ShapeError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}; expected {words} of shape"
                f" ({measures.get(name, images)},), one value per image of results.json"
            )
    return examples
