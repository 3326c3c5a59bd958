"""Free memory is that of the container where it has less than the machine."""

from types import SimpleNamespace

import psutil
import pytest

from bat_jax.runtime import memory


@pytest.mark.parametrize("folder", ["", "memory/"])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / folder).mkdir(exist_ok=True)
    names = ("memory.max", "memory.current")
    if folder:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, content in zip(names, ("5000", "4000"), strict=True):
        (tmp_path / folder / name).write_text(f"{content}\n")
    (tmp_path / folder / "memory.stat").write_text("anon 3300\ninactive_file 700\nslab 0\n")
    assert memory.available() == 1700


@pytest.mark.parametrize("limit", ["max", None, "9223372036854771712"])
def test_without_a_limit_it_is_that_of_the_machine(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("4000")
        (tmp_path / "memory.stat").write_text("inactive_file 700")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8))
    assert memory.available() == 8
