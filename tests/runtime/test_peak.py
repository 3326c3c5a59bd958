"""The peak rates that utilisation is relative to."""

from types import SimpleNamespace

import jax
import pytest

from bat_jax.runtime import peak


def devices(kind, count):
    return [SimpleNamespace(platform="tpu", device_kind=kind, process_index=0)] * count


def test_the_peaks_of_known_devices_add_up():
    assert peak.together(devices("TPU v5 lite", 4), "bfloat16") == pytest.approx(4 * 197e12)
    assert peak.together(devices("NVIDIA A100-SXM4-80GB", 1), "float32") == 156e12


def test_unknown_devices_have_no_peak():
    assert peak.together(devices("TPU v99", 1), "float32") is None


def test_cpu_devices_share_the_cores_that_are_measured(monkeypatch):
    monkeypatch.setattr(peak, "_cpu_rate", lambda: 1e11)
    assert peak.together(jax.devices(), "float32") == 1e11


def test_a_machine_does_more_than_a_billion_a_second():
    assert 1e9 < peak.matrix_rate() < 1e15
