"""The audit of a run's data, if `python -m bat_jax.data.audit --run` has made one."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bat_jax.data import audit
from bat_jax.data.audit.findings import FILE
from bat_jax.errors import UserError
from bat_jax.evaluation.runs import Run
from bat_jax.report.page import Section, Table

log = logging.getLogger(__name__)

_ROWS = 30


def section(run: Run) -> Section | None:
    """Returns the counts of an audit, and the images behind them.

    Returns None without an audit; warns and returns None if the audit cannot be read or is of other
    data.
    """
    path = run.folder / FILE
    if not path.exists():
        return None
    try:
        found = audit.read(path)
        for part in ("train", "test"):
            if found[part]["digest"] != run.about["data"].get(part):
                raise UserError(
                    f"{path}: is an audit of other {part} data than the run's; expected one of the"
                    " run's data: python -m bat_jax.data.audit --run"
                )
    except UserError as error:
        log.warning("no audit: %s", error)
        return None
    counts = Table(
        "Counts within the training set, within the test set, and across them.",
        ("counted", "training", "test", "across"),
        tuple(audit.table(found)),
    )
    rows = list(_images(found))
    tables = [counts]
    if rows:
        more = f" The first {_ROWS} of {len(rows)}." if len(rows) > _ROWS else ""
        tables.append(
            Table(
                f"Repeated images, by their ids (places in the source's order).{more}",
                ("what", "training", "test", "classes"),
                tuple(rows[:_ROWS]),
            )
        )
    return Section(
        "Audit of the data",
        (
            "A test image that is also a training image measures memory rather than generalization,"
            " and copies with different labels cannot all be right. Near duplicates differ, after"
            f" the mean of each channel is removed, by at most {found['tolerance']:g} of the larger"
            " contrast in root mean square.",
        ),
        tuple(tables),
    )


def _images(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yields rows of equal images, then of near duplicates; those across the splits come first."""
    for copies in found["copies_across"]:
        yield "equal", _ids(copies["train"]), _ids(copies["test"]), ", ".join(copies["labels"])
    for part in ("train", "test"):
        for ids in found[part]["duplicate_group_ids"]:
            yield "equal", *_columns(part, ids), ""
    for pair in found["near_duplicates"]:
        first, second = pair["ids"]
        yield _near(pair), str(first), str(second), _classes(pair)
    for part in ("train", "test"):
        for pair in found[part]["near_duplicates"]:
            yield _near(pair), *_columns(part, pair["ids"]), _classes(pair)


def _columns(part: str, ids: Sequence[int]) -> tuple[str, str]:
    return (_ids(ids), "") if part == "train" else ("", _ids(ids))


def _ids(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def _near(pair: Mapping[str, Any]) -> str:
    return f"near ({pair['difference']:.2f})"


def _classes(pair: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(pair["labels"]))
