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


def test_the_rate_is_that_of_the_fastest_product(monkeypatch):
    def clock():
        """The products take 8, 5, 2, 4 and 7 s."""
        ticks = iter((0, 8, 10, 15, 20, 22, 30, 34, 40, 47))
        return SimpleNamespace(perf_counter=lambda: next(ticks))

    monkeypatch.setattr(peak, "time", clock())
    sizes = []

    def product(one, other):
        sizes.append((*one.shape, other.shape[1]))
        return jax.numpy.zeros(())

    monkeypatch.setattr(peak.jnp, "matmul", product)
    # Without compiling it, so that every product is counted.
    with jax.disable_jit():
        rate = peak.matrix_rate()
    # The first is not timed.
    assert len(sizes) == 6
    rows, inner, columns = sizes[0]
    # An addition and a multiplication for each term of each element.
    assert rate == 2 * rows * inner * columns / 2
