"""Every choice that depends on the back end, in one place.

XLA's CPU back end runs convolutions inside a loop on a single thread, and convolutions of
one-channel images slowly wherever they are. So programs for it are written differently: attack
steps one after another instead of a loop, and its own form of the first convolution of gray
images. On GPU and TPU the plain forms are right. What is computed is the same up to float
rounding.
"""

import os
from typing import Literal

import jax

from bat_jax.errors import UserError

# Members of a device one after another, or all at once.
Execution = Literal["map", "vmap"]

OVERRIDE = "BAT_JAX_PROGRAMS"


def is_cpu_style() -> bool:
    """Returns whether programs are to be written the way that suits the CPU back end.

    They are where CPU is the default back end. The environment variable BAT_JAX_PROGRAMS overrides
    it: `cpu` or `accelerator`, as in compiling on one machine for another.

    Raises:
      UserError: the variable is something else.
    """
    chosen = os.environ.get(OVERRIDE)
    if chosen is None:
        return jax.default_backend() == "cpu"
    if chosen not in ("cpu", "accelerator"):
        raise UserError(
            f"{OVERRIDE} is {chosen!r}; expected cpu or accelerator, or no such variable"
        )
    return chosen == "cpu"


def unrolls_attacks(asked: bool | None = None) -> bool:
    """Returns whether the steps of PGD are written out rather than a loop, or what is asked."""
    return is_cpu_style() if asked is None else asked


def ensemble_style() -> tuple[Literal["automatic", "patches"], Execution]:
    """Returns how the models of an ensemble lower their convolutions, and how they train.

    On CPU one after another, with patches and products: convolutions lose their threads in a loop,
    and `vmap` would make those of all models one grouped convolution, many times slower.
    """
    return ("patches", "map") if is_cpu_style() else ("automatic", "vmap")


def use_cores_as_devices() -> None:
    """Makes every core a CPU device of its own; called by programs, before JAX starts.

    For work that falls into independent parts, as an ensemble does: parts on devices of their own
    wait for each other less than threads within one product do. JAX_NUM_CPU_DEVICES goes before it.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def loops_on_host() -> bool:
    """Returns whether long attacks call a compiled step again and again rather than loop in it."""
    return is_cpu_style()
