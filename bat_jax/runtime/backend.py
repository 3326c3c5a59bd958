"""What programs set before JAX starts: devices, compiler flags and the cache of programs.

How programs are written for a back end is `bat_jax.kernels.programs`.
"""

import hashlib
import logging
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import jax
import jaxlib

from bat_jax.errors import UserError

# Versions of jaxlib known to have the flag, and to be faster with it. XLA ends the
# process at a flag it does not know.
_FUSED_PRODUCTS = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
_JAXLIBS_WITH_FUSED_PRODUCTS = ("0.10.2", "0.11.2", "0.12.0.1")

_DEVICE_COUNT = "--xla_force_host_platform_device_count"
_CGROUP = Path("/sys/fs/cgroup")
_LOGGER = logging.getLogger(__name__)


def cores() -> list[int]:
    """Returns the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    # As on macOS, where a process cannot be bound to some.
    return list(range(os.cpu_count() or 1))


def quota() -> float:
    """Returns how many cores' time this process may use at once; infinite without a limit.

    A container's limit of CPU time leaves all cores of the machine visible.
    """
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((_CGROUP / name).read_text() for name in files).split()
            limit, period = map(int, words)
        except (OSError, ValueError):  # No such file, or `max`.
            continue
        if limit > 0 and period > 0:
            return limit / period
    return math.inf


def run_on(cores: Sequence[int]) -> None:
    """Binds this process to these cores where the system can; to be called before JAX starts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def use_cores_as_devices(*, sharing: Sequence[int] = ()) -> None:
    """Makes every core a CPU device of its own; called by programs, before JAX starts.

    Parts of a batch, and members of an ensemble, wait less for each other on devices of their own
    than threads within one product do. There are no more of them than `quota` can keep busy. The
    number that JAX_NUM_CPU_DEVICES or XLA_FLAGS gives goes before it.

    Args:
      sharing: sizes of batches that the devices must be able to share evenly; where all cores
        cannot, there are fewer devices.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ or _DEVICE_COUNT in os.environ.get("XLA_FLAGS", ""):
        return
    devices = max(1, math.floor(min(len(cores()), quota())))
    while any(size % devices for size in sharing):
        devices -= 1
    jax.config.update("jax_num_cpu_devices", devices)


def devices() -> list[jax.Device]:
    """Returns the devices of all processes: `jax.devices`, which starts the back end.

    Raises:
      UserError: JAX cannot start one; it says why.
    """
    try:
        return jax.devices()
    # JAX asserts that the plug-in of a platform it knows is installed.
    except (RuntimeError, AssertionError) as error:
        chosen = os.environ.get("JAX_PLATFORMS")
        reason = " ".join(str(error).split()) or f"nothing of {chosen} is installed"
        raise UserError(
            f"JAX_PLATFORMS is {chosen!r}: JAX found no device ({reason}); unset it, or install JAX"
            " for that platform"
            if chosen
            else f"JAX found no device ({reason}); JAX_PLATFORMS=cpu does without accelerators"
        ) from error


def devices_share_threads() -> bool:
    """Returns whether the devices of a process share its threads, and so wait for one another."""
    return jax.default_backend() == "cpu"


def prepare(*, compilation_cache: str | None, fuse_products: bool = True) -> None:
    """Sets what must be set before JAX first looks for devices.

    For programs, not for libraries: it changes the process. On CPU, XLA then takes matrix products
    from a faster library, which made an adversarial training step of PreActResNet-18 1.5 times as
    fast; unless XLA_FLAGS is set already, or jaxlib is a version not known to have that flag.

    Args:
      compilation_cache: a folder that keeps compiled programs, so that the next run starts at
        once; `none` keeps none; None is what JAX_COMPILATION_CACHE_DIR names, else a folder among
        the user's caches. Without one that can be written to none is kept, which is logged.
      fuse_products: whether to set the flag. It was measured with XLA's own convolutions alone,
        not with those lowered as patches, as ensembles have them.
    """
    # Flax, Optax and Orbax mix types and ranks, whatever rule the environment sets for other code.
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    if fuse_products and jaxlib.__version__ in _JAXLIBS_WITH_FUSED_PRODUCTS:
        os.environ.setdefault("XLA_FLAGS", _FUSED_PRODUCTS)
    if compilation_cache is None and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    jax.config.update("jax_compilation_cache_dir", _made(compilation_cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _made(compilation_cache: str | None) -> str | None:
    """Returns the folder for compiled programs, which exists; None where none are kept."""
    if compilation_cache == "none" or "://" in (compilation_cache or ""):  # JAX writes to buckets.
        return None if compilation_cache == "none" else compilation_cache
    try:
        if compilation_cache is None:
            folder = default_compilation_cache()
        else:
            folder = Path(compilation_cache).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder.
        if compilation_cache is not None:
            raise UserError(
                f"--compilation_cache={compilation_cache}: cannot be made ({error}); expected a"
                " folder that can be written to, or none"
            ) from error
        _LOGGER.warning(
            "compiled programs are not kept (%s), so that every start compiles anew; name a folder"
            " for them with --compilation_cache",
            error,
        )
        return None


def default_compilation_cache() -> Path:
    """Returns the folder for compiled programs among the user's caches, one a kind of processor.

    A home folder may be shared by machines; programs compiled for one may not run on another.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    digest = hashlib.sha256("\n".join([platform.machine(), *kind]).encode()).hexdigest()[:12]
    return caches / "bat_jax" / f"programs-{digest}"
