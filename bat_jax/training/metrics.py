"""Logs a run's metrics to metrics.jsonl and TensorBoard."""

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from bat_jax.evaluation.runs import scan_records
from bat_jax.runtime.files import naming, open_plain, written_whole
from bat_jax.runtime.schema import name_aside
from bat_jax.runtime.storage import AnyPath, put

log = logging.getLogger(__name__)


class Log(Protocol):
    """Writes the records of a run."""

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Records values under their names."""

    def flush(self) -> None:
        """Persists all records; called before a checkpoint."""

    def close(self) -> None:
        """Closes the log."""


class NoLog:
    """Records nothing: for all processes but the main one."""

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class MetricsLog:
    """Appends records, one line each: step, epoch, split, and name -> value.

    When resuming, drops the records after the resumed step first, so that no step is recorded
    twice. (The first average after resuming may cover fewer steps than the others.)
    """

    def __init__(self, workdir: Path, *, resumed_step: int):
        """Opens or creates `metrics.jsonl` and `tensorboard/` in the workdir."""
        self._path = path = workdir / "metrics.jsonl"
        kept = _records_until(path, resumed_step)
        with written_whole(path) as file:
            file.writelines(kept)
        descriptor = open_plain(path, os.O_WRONLY | os.O_APPEND)
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        self._tensorboard = _Events(workdir / "tensorboard", resumed_step=resumed_step)

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Records the finite values under their names."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        record = {"step": step, "epoch": round(epoch, 4), "split": split, **finite}
        with naming(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        self._tensorboard.write(step, split, finite)

    def flush(self) -> None:
        """Does nothing: records are written immediately."""

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._tensorboard.close()


class _Events:
    """The scalars of a run for TensorBoard.

    tensorboardX's `SummaryWriter` writes in a thread, which a full disk ends; its queue then fills,
    and the run waits forever. Here the writer raises the error.
    """

    def __init__(self, folder: Path, *, resumed_step: int):
        """Begins a file, from whose first step on TensorBoard ignores those of earlier files."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        with naming(folder):
            # Without the step, a run resumed within a second would overwrite its file.
            self._writer = EventsWriter(str(folder / "events"), f".{resumed_step}")
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(_event(resumed_step + 1, session_log=start))
            self._writer.flush()

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        with naming(self._folder):
            for name, value in values.items():
                summary = scalar(f"{split}/{name}", value)
                self._writer.write_event(_event(step, summary=summary))
            self._writer.flush()

    def close(self) -> None:
        with naming(self._folder):
            self._writer.close()


def _event(step: int, **content: object) -> Event:
    return Event(step=step, wall_time=time.time(), **content)


class UploadedLog:
    """A `MetricsLog` for buckets, whose objects cannot be appended to.

    Its files grow in a temporary folder and are uploaded when the log is flushed or closed. A
    killed run loses the records since its last checkpoint, and records them again.
    """

    def __init__(self, workdir: AnyPath, *, resumed_step: int):
        """Downloads `metrics.jsonl` from the workdir, if it exists."""
        self._workdir = workdir
        self._temporary = tempfile.TemporaryDirectory(prefix="bat_jax-")
        self._folder = Path(self._temporary.name)
        before = workdir / "metrics.jsonl"
        if before.exists():
            (self._folder / "metrics.jsonl").write_bytes(before.read_bytes())
        self._log = MetricsLog(self._folder, resumed_step=resumed_step)

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Records the finite values under their names."""
        self._log.write(step, epoch, split, values)

    def flush(self) -> None:
        """Uploads all records."""
        self._log.flush()
        self._upload()

    def close(self) -> None:
        """Uploads all records and removes the temporary folder."""
        with self._temporary:
            self._log.close()
            self._upload()

    def _upload(self) -> None:
        # A damaged file is kept beside metrics.jsonl.
        records = self._folder.glob("metrics.jsonl*")
        for path in (*records, *(self._folder / "tensorboard").iterdir()):
            put(self._workdir / path.relative_to(self._folder), path.read_bytes())


def _records_until(path: Path, step: int) -> list[bytes]:
    if not path.exists():
        return []
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        content = file.read()
    found, damage = scan_records(path)
    if damage:
        aside = name_aside(path)
        aside.write_bytes(content)
        log.warning(
            "%s (%d such lines); the file is kept as %s, and the run keeps the other records",
            damage[0],
            len(damage),
            aside.name,
        )
    return [line for line, record in found if record["step"] <= step]
