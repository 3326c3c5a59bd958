"""Peak FLOP/s of devices, the reference for utilisation."""

import functools
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Dtype = Literal["float32", "bfloat16"]


class _Peak(NamedTuple):
    """FLOP/s of one device by type, at JAX's default precision."""

    float32: float
    bfloat16: float


# By default, TPUs multiply float32 as bfloat16, and NVIDIA's cards as TensorFloat-32. The rates do
# not count sparsity. Sources: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; NVIDIA's
# data sheets of the A100, and of the H100 and H200 (SXM).
_TPUS = {
    "TPU v4": _Peak(275e12, 275e12),
    "TPU v5 lite": _Peak(197e12, 197e12),
    "TPU v5e": _Peak(197e12, 197e12),
    "TPU v5": _Peak(459e12, 459e12),
    "TPU v5p": _Peak(459e12, 459e12),
    "TPU v6 lite": _Peak(918e12, 918e12),
    "TPU v6e": _Peak(918e12, 918e12),
}
_GPUS = {
    "NVIDIA A100": _Peak(156e12, 312e12),
    "NVIDIA H100 80GB HBM3": _Peak(494.7e12, 989.4e12),
    "NVIDIA H200": _Peak(494.7e12, 989.4e12),
}


def together(devices: Sequence[jax.Device], dtype: Dtype) -> float | None:
    """Returns the total FLOP/s of these devices, or None if unknown.

    For CPU, it is measured with a float32 matrix product on all cores, once per process.
    """
    if devices[0].platform == "cpu":
        processes = {device.process_index for device in devices}
        return _cpu_rate() * len(processes)
    peak = _of_kind(devices[0].device_kind)
    return None if peak is None else getattr(peak, dtype) * len(devices)


def _of_kind(kind: str) -> _Peak | None:
    if kind in _TPUS:
        return _TPUS[kind]
    # The name is followed by the memory size and form factor.
    return next((peak for name, peak in _GPUS.items() if kind.startswith(name)), None)


@functools.cache
def _cpu_rate() -> float:
    return matrix_rate()


def matrix_rate() -> float:
    """Returns the FLOP/s of this machine's float32 matrix product, the best of five.

    This takes about 0.1 s on two cores.
    """
    side = 1536
    one = jnp.ones((side, side))
    product = jax.jit(jnp.matmul)
    product(one, one).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        product(one, one).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)
