"""The figures measured so far: a JSON-lines file that loses nothing when a run is cut off."""

import datetime
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bat_jax.errors import UserError, one_line

MEASURED = "measured"
SKIPPED = "skipped"
FAILED = "failed"
NOTE = "note"

Record = Mapping[str, Any]


class Records:
    """Appends figures the moment they are known, and finds those of earlier runs.

    A line holds `key`, `stage`, `state`, `card`, `versions`, `precision`, `seeds`, `smoke`, `date`,
    and either `values`, name -> figure, or `why` there are none.
    """

    def __init__(self, path: Path, *, card: str, versions: Mapping[str, str], smoke: bool) -> None:
        """Reads the file if there is one.

        Args:
          path: the file.
          card: the device's name, written into every record.
          versions: of the packages, written into every record.
          smoke: whether this is a trial of the program; its figures count for trials alone.

        Raises:
          UserError: the path is a folder, or cannot be read or written.
        """
        self._path, self._card, self._versions, self._smoke = path, card, versions, smoke
        self._found: dict[str, list[Record]] = {}
        self.failures = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            # A killed run may have left part of a line: it stays, and the next line begins anew.
            self._write(b"\n" if content and not content.endswith(b"\n") else b"")
        except OSError as error:
            raise UserError(
                f"{path}: {error.strerror}; expected a file of records that can be written to"
            ) from None
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                self._read(number, line)

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return self._path.parent

    def _read(self, number: int, line: bytes) -> None:
        try:
            record = json.loads(line)
            key, state = record["key"], record["state"]
        except (ValueError, KeyError, TypeError):
            print(f"{self._path}: line {number} is no record and is left as it is", file=sys.stderr)
            return
        if state != NOTE:
            self._found.setdefault(key, []).append(record)

    def find(self, key: str, *, by_card: bool) -> dict[str, Any] | None:
        """Returns the values measured under a key, or None.

        Those of a check that failed do not count: it is made again.

        Args:
          key: of the figures.
          by_card: whether figures of another card do not count, as for a time.
        """
        for record in reversed(self._found.get(key, [])):
            is_ours = record["smoke"] == self._smoke and (
                not by_card or record["card"] == self._card
            )
            if is_ours and record["state"] == MEASURED and not _is_failed(record["values"]):
                return dict(record["values"])
        return None

    def measured(
        self,
        key: str,
        values: Mapping[str, Any],
        *,
        precision: str,
        seeds: Sequence[int],
        seconds: float,
    ) -> None:
        """Appends the values measured under a key, and prints them; a failed check is a failure."""
        self.failures += _is_failed(values)
        about = {"seconds": round(seconds, 1), "values": dict(values)}
        self._add(key, MEASURED, about, precision, seeds, _shown(values))

    def note(self, key: str, text: str, *, precision: str, seeds: Sequence[int]) -> None:
        """Appends and prints a line of progress."""
        self._add(key, NOTE, {"why": text}, precision, seeds, text)

    def missing(
        self, key: str, state: str, why: str, *, precision: str, seeds: Sequence[int]
    ) -> None:
        """Appends and prints why a key has no values; the same reason is appended once."""
        why = one_line(why)
        self.failures += state == FAILED
        earlier = self._found.get(key, [])
        if earlier and (earlier[-1]["state"], earlier[-1].get("why")) == (state, why):
            print(self._line(key, f"{state}: {why}", precision, seeds), flush=True)
            return
        self._add(key, state, {"why": why}, precision, seeds, f"{state}: {why}")

    def show(self, key: str, text: str, *, precision: str, seeds: Sequence[int]) -> None:
        """Prints a line that is not recorded."""
        print(self._line(key, text, precision, seeds), flush=True)

    def _add(
        self,
        key: str,
        state: str,
        about: Mapping[str, Any],
        precision: str,
        seeds: Sequence[int],
        text: str,
    ) -> None:
        record = {
            "key": key,
            "stage": key.partition("/")[0],
            "state": state,
            "card": self._card,
            "versions": dict(self._versions),
            "precision": precision,
            "seeds": list(seeds),
            "smoke": self._smoke,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **about,
        }
        self._write(json.dumps(record, allow_nan=True).encode() + b"\n")
        if state != NOTE:
            self._found.setdefault(key, []).append(record)
        print(self._line(key, text, precision, seeds), flush=True)

    def _write(self, line: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _line(self, key: str, text: str, precision: str, seeds: Sequence[int]) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self._versions.items())
        drawn = f"seed {', '.join(map(str, seeds))}"
        return f"{key}: {text} [{self._card}; {versions}; {precision}; {drawn}]"


def _shown(values: Mapping[str, Any]) -> str:
    """Returns figures on one line; long texts and lists of figures stay in the file."""
    parts = []
    for name, value in values.items():
        if isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        elif isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= 60):
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def _is_failed(values: Mapping[str, Any]) -> bool:
    """Returns whether values are those of a check that did not pass."""
    return values.get("passed") is False
