"""The folder of one run: whose it is, and that only one process writes to it."""

import contextlib
import fcntl
import functools
import json
import logging
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from bat_jax.errors import UserError
from bat_jax.runtime import distributed, files
from bat_jax.runtime.files import write_json
from bat_jax.runtime.plain import differences, plain
from bat_jax.runtime.storage import AnyPath, check_writable, is_remote

log = logging.getLogger(__name__)

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "bat_jax")
# What changes where a run is computed, or how much more of it, but not what it computes.
_FREE = (
    "data.path",
    "data.exclude",
    "memorization.estimates",
    "programs.members_at_once",
    "checkpoint.keep",
)


@contextlib.contextmanager
def opened(workdir: AnyPath) -> Iterator[None]:
    """Makes the folder and holds it for this run alone; of several processes the main one does.

    What a killed process left half-written in it is removed. A folder of a bucket cannot be held:
    that no other run writes to it is left to the user, who is told.

    Raises:
      UserError: it cannot be made, or another run holds it.
    """
    with contextlib.ExitStack() as stack:
        with distributed.agreed():
            if distributed.is_main():
                stack.enter_context(_held(workdir))
                files.remove_partial(workdir)
        yield


@contextlib.contextmanager
def _held(workdir: AnyPath) -> Iterator[None]:
    if is_remote(workdir):
        _take_on_trust(workdir)
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"--workdir {workdir}: {error.strerror}; expected a folder that can be written to"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--workdir {workdir}: another process is running in it; wait for it to end, or"
                " name another folder"
            ) from None
        yield


@functools.cache
def _take_on_trust(folder: AnyPath) -> None:
    """Says, once, that nothing keeps other runs out of a folder of a bucket."""
    check_writable(folder)
    log.warning("%s: a bucket has no locks: start no other run in this folder", folder)


def claim(workdir: AnyPath, config: ConfigDict, data: Mapping[str, str]) -> None:
    """Writes config.json, or checks that the folder is already this config's.

    Args:
      workdir: the run's folder.
      config: the resolved config.
      data: digests of the data's parts.

    Raises:
      UserError: it holds a run of another config, or of other data; or the processes that run
        together do not have the same config, data or folder.
    """
    path = workdir / "config.json"
    distributed.check_same("the config", json.dumps(plain(config), sort_keys=True))
    distributed.check_same("the data", json.dumps(dict(data), sort_keys=True))
    with distributed.agreed():
        if distributed.is_main():
            _claim(workdir, path, config, data)
    with distributed.agreed():
        if not path.exists():
            raise UserError(
                f"{path}: process 0 has written it, and it is not here; expected a folder that all"
                " processes share: name one with --workdir"
            )


def _claim(workdir: AnyPath, path: AnyPath, config: ConfigDict, data: Mapping[str, str]) -> None:
    ours = plain(config)
    if not path.exists():
        write_json(
            path,
            {
                "config": ours,
                "data": dict(data),
                "versions": {name: _version(name) for name in _PACKAGES},
                "git": _git_revision(),
                "devices": [str(device) for device in jax.devices()],
            },
        )
        return
    theirs, digests = read(path)
    # Without synchronised batch norm, statistics are those of each device's share.
    free = (*_FREE, "parallel.") if config.model.sync_batch_norm else _FREE
    if config.job == "memorization":
        # Members can be added; findings would have been made with fewer.
        free = (*free, "memorization.members: ")
    found = [row for row in differences(theirs, ours) if not row.startswith(free)]
    changed = [part for part in sorted({*data, *digests}) if digests.get(part) != data.get(part)]
    if found:
        raise UserError(
            f"--workdir {workdir}: holds a run of another config (field: there, here): "
            + "; ".join(found)
            + "; name another folder, or run the same config (a finished run is evaluated otherwise"
            " with configs/evaluation.py)"
        )
    if changed:
        raise UserError(
            f"--workdir {workdir}: its run was made on other data ({', '.join(changed)} differ);"
            " name another folder, or give it the same data"
        )


def read(path: AnyPath) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the plain config of a run from its config.json, and the digests of its data.

    Raises:
      UserError: the file is not that of a run.
    """
    try:
        content = json.loads(path.read_bytes())
        return dict(content["config"]), dict(content["data"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a run's config; name another folder with --workdir") from None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # bat_jax itself, run from a clone without being installed.


def _git_revision() -> str | None:
    """Returns the commit of the code, `-dirty` where it was changed since; None if not known."""
    # Without its lock: a run that is killed here leaves none in the repository.
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    command += ["describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
