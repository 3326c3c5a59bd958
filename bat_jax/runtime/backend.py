"""Settings to apply before JAX starts: devices, compiler flags and the compilation cache.

See `bat_jax.kernels.programs` for the forms of programs per back end.
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

# Set only for jaxlib versions known to have the flag and to be faster with it: XLA aborts on
# unknown flags.
_FUSED_PRODUCTS = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
_JAXLIBS_WITH_FUSED_PRODUCTS = ("0.10.2", "0.11.2", "0.12.0.1")

_DEVICE_COUNT = "--xla_force_host_platform_device_count"
_CGROUP = Path("/sys/fs/cgroup")
_LOGGER = logging.getLogger(__name__)


def cores() -> list[int]:
    """Returns the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    # On macOS, for example, processes cannot be bound to cores.
    return list(range(os.cpu_count() or 1))


def quota() -> float:
    """Returns the CPU quota of this process in cores; infinite without a limit.

    A container with a CPU quota still sees all cores of the machine.
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
    """Binds this process to these cores if the system supports it; call before JAX starts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def use_cores_as_devices(*, sharing: Sequence[int] = ()) -> None:
    """Makes every core a separate CPU device; call before JAX starts.

    Parts of a batch and members of an ensemble on separate devices wait less for each other than
    threads within one matrix product. The number of devices is at most `quota`;
    JAX_NUM_CPU_DEVICES or XLA_FLAGS take precedence.

    Args:
      sharing: batch sizes that the number of devices must divide; reduces that number if needed.
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
      UserError: JAX cannot start a back end; the message gives the reason.
    """
    try:
        return jax.devices()
    # JAX asserts that the plug-in of a platform it knows is installed.
    except (RuntimeError, AssertionError) as error:
        chosen = os.environ.get("JAX_PLATFORMS")
        reason = " ".join(str(error).split()) or f"no plug-in for {chosen} is installed"
        raise UserError(
            f"JAX_PLATFORMS is {chosen!r}: JAX found no device ({reason}); unset it, or install JAX"
            " for that platform"
            if chosen
            else f"JAX found no device ({reason}); set JAX_PLATFORMS=cpu to run on the CPU"
        ) from error


def devices_share_threads() -> bool:
    """Returns whether a process's devices share its threads and so wait for each other."""
    return jax.default_backend() == "cpu"


def prepare(*, compilation_cache: str | None, fuse_products: bool = True) -> None:
    """Configures JAX before it initialises devices.

    For programs, not for libraries: it changes global state. On CPU, XLA then uses a faster library
    for matrix products, which made an adversarial training step of PreActResNet-18 1.5 times as
    fast. This does not apply if XLA_FLAGS is already set, or for other versions of jaxlib.

    Args:
      compilation_cache: a folder for compiled programs, so that the next run starts faster; `none`
        disables the cache; None uses JAX_COMPILATION_CACHE_DIR, or else a folder in the user's
        cache. Logs a warning if the folder is not writable.
      fuse_products: whether to set the flag. It was measured only with XLA's own convolutions, not
        with patches, which ensembles use.
    """
    # Flax, Optax and Orbax mix types and ranks, so this overrides what the environment sets.
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    if fuse_products and jaxlib.__version__ in _JAXLIBS_WITH_FUSED_PRODUCTS:
        os.environ.setdefault("XLA_FLAGS", _FUSED_PRODUCTS)
    if compilation_cache is None and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    jax.config.update("jax_compilation_cache_dir", _made(compilation_cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _made(compilation_cache: str | None) -> str | None:
    """Creates and returns the compilation cache; None if disabled."""
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
                " writable folder, or none"
            ) from error
        _LOGGER.warning(
            "compiled programs are not kept (%s), so every start compiles again; name a folder for"
            " them with --compilation_cache",
            error,
        )
        return None


def default_compilation_cache() -> Path:
    """Returns the folder for compiled programs in the user's cache, specific to the processor.

    Machines may share a home folder, but programs compiled for one may not run on another.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    digest = hashlib.sha256("\n".join([platform.machine(), *kind]).encode()).hexdigest()[:12]
    return caches / "bat_jax" / f"programs-{digest}"
