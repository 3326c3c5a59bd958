"""How many operations a second devices can do at their best: what utilisation is a share of."""

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Dtype = Literal["float32", "bfloat16"]


class _Peak(NamedTuple):
    """FLOPs a second of one device, by the type computed in, as JAX computes by default."""

    float32: float
    bfloat16: float


# TPUs multiply float32 as bfloat16 by default, NVIDIA's cards as TensorFloat-32. Rates are without
# sparsity. Sources: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; NVIDIA's data sheets
# of the A100 and of the H100 (SXM).
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
}


def together(devices: Sequence[jax.Device], dtype: Dtype) -> float | None:
    """Returns the FLOPs a second of all these devices, or None where they are not known.

    Of a CPU it is measured: the matrix product of its cores together, in float32.
    """
    if devices[0].platform == "cpu":
        processes = {device.process_index for device in devices}
        return matrix_rate() * len(processes)
    peak = _of_kind(devices[0].device_kind)
    return None if peak is None else getattr(peak, dtype) * len(devices)


def _of_kind(kind: str) -> _Peak | None:
    if kind in _TPUS:
        return _TPUS[kind]
    # Sizes of memory and forms of cards follow the name.
    return next((peak for name, peak in _GPUS.items() if kind.startswith(name)), None)


def matrix_rate() -> float:
    """Returns the FLOPs a second of this machine's float32 matrix product, its best of five.

    It takes about a tenth of a second of two cores.
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
