"""A log continues after the step that a run resumes from."""

import errno
import json
import os
import struct

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from bat_jax.training.metrics import MetricsLog


def events(path):
    """Returns the events of a file: records of a length, its checksum, an event, its checksum."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_a_resumed_log_drops_later_and_broken_records(tmp_path):
    log = MetricsLog(tmp_path, resumed_step=0)
    for step in (1, 2, 3):
        log.write(step, step / 10, "train", {"loss": 1.0 / step, "bad": float("nan")})
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 2, "epo')
    log = MetricsLog(tmp_path, resumed_step=2)
    log.write(3, 0.3, "train", {"loss": 9.0})
    log.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert "bad" not in records[0]


def test_tensorboard_gets_the_finite_values_and_the_step_of_a_restart(tmp_path):
    for resumed_step in (0, 2):
        log = MetricsLog(tmp_path, resumed_step=resumed_step)
        log.write(resumed_step + 1, 0.1, "train", {"loss": 0.5, "bad": float("nan")})
        log.close()
    files = sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.suffix)
    for path, first in zip(files, (1, 3), strict=True):
        _, start, scalars = events(path)
        assert start.step == scalars.step == first
        assert start.session_log.status == 1
        assert [(one.tag, one.simple_value) for one in scalars.summary.value] == [
            ("train/loss", 0.5)
        ]


def test_a_full_disk_under_tensorboard_is_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, resumed_step=0)

    def full(writer):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventsWriter, "flush", full)
    with pytest.raises(OSError, match="No space left") as raised:
        log.write(1, 0.1, "train", {"loss": 0.5})
    assert raised.value.filename == str(tmp_path / "tensorboard")
    monkeypatch.undo()
    log.close()
