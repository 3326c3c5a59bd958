"""The memory that this process may still use."""

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
# Files of the limit, of the use and of its parts, in either version of control groups.
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available() -> int:
    """Returns the free memory of the machine in bytes, or of the container if it has less.

    A container with a limit still sees all memory of the machine. Pages of files that the kernel
    would give up count as free.
    """
    free = int(psutil.virtual_memory().available)
    for limit, used, parts in _LIMITS:
        try:
            most, now = (int((_CGROUP / name).read_text()) for name in (limit, used))
            lines = (_CGROUP / parts).read_text().splitlines()
            of_files = next(
                int(line.split()[1]) for line in lines if line.startswith("inactive_file ")
            )
        except (OSError, ValueError, StopIteration):  # No such file, or no limit: `max`.
            continue
        return max(min(free, most - now + of_files), 0)
    return free
