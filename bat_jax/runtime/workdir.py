"""The folder of a run: its config, and a lock against concurrent writers."""

import contextlib
import fcntl
import functools
import json
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from bat_jax.errors import UserError, in_short
from bat_jax.runtime import distributed, files
from bat_jax.runtime.files import write_json
from bat_jax.runtime.plain import differences, plain
from bat_jax.runtime.schema import read_plain
from bat_jax.runtime.storage import AnyPath, check_writable, is_remote

log = logging.getLogger(__name__)

# The format of config.json and of the whole folder; files without a number have format 1.
FORMAT = 2
# The places of the fields of `programs` in format 1; `model.lowering` was the convolution of every
# program.
_FORMER_PLACES = {
    "unroll": ("attack", "unroll"),
    "execution": ("memorization", "execution"),
    "members_at_once": ("memorization", "members_at_once"),
}
_CONVOLUTIONS = ("training", "attack", "evaluation")

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "bat_jax")
# Fields that change where or how far a run computes, but not its results.
_FREE = (
    "data.path",
    "data.cache",
    "data.exclude",
    "data.placement",
    "memorization.estimates",
    "findings.pilot",
    "findings.expected_robust",
    "findings.robust_estimates",
    "programs.members_at_once",
    "checkpoint.keep",
)
# Fields that decide which sections a config has.
_KINDS = ("job: ", "objective.name: ")
# Fields whose values are mappings with user-defined names.
_MAPPINGS = (
    *("findings.variants", "findings.arms", "findings.factors"),
    *("findings.ensemble", "findings.robust_ensemble"),
    "train.optimizer.options",
)


@contextlib.contextmanager
def opened(workdir: AnyPath) -> Iterator[None]:
    """Creates and locks the folder of a run; with several processes, the main one does.

    Removes partial files of killed processes. Buckets and file systems without locks cannot be
    locked: a warning asks the user to start no other run there.

    Raises:
      UserError: the folder cannot be created, or another run has locked it.
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
        descriptor = files.open_plain(workdir / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise UserError(
            f"{workdir}: {error.strerror}; expected a writable folder: name another"
        ) from None
    with os.fdopen(descriptor, "r+"):
        try:
            is_free = files.lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except files.NoLocksError as error:
            is_free = True
            _warn_without_locks(workdir, error.strerror)
        if not is_free:
            raise UserError(
                f"{workdir}: another process is running in it; wait for it to end, or name another"
                " folder"
            )
        yield


@functools.cache
def _warn_without_locks(folder: AnyPath, why: str) -> None:
    log.warning(
        "%s: its file system has no locks (%s): do not start another run in this folder",
        folder,
        why,
    )


@functools.cache
def _take_on_trust(folder: AnyPath) -> None:
    """Warns, once, that a bucket folder is not locked against other runs."""
    check_writable(folder)
    log.warning("%s: buckets have no locks: do not start another run in this folder", folder)


def claim(
    workdir: AnyPath,
    config: ConfigDict,
    data: Mapping[str, str],
    *,
    defaults: ConfigDict,
    free: tuple[str, ...] = (),
    model: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json, or checks that the existing one matches this config.

    Args:
      workdir: the run's folder.
      config: the resolved config.
      defaults: default values of its fields, for fields missing from an older version's config.
      data: digests of the data's parts.
      free: fields such as `evaluation.tolerance` that may differ; the file gets those of `config`.
      model: the description of a model that the config does not describe.

    Raises:
      UserError: the folder contains a run with another config, model or data; or the processes
        differ in config, model, data or folder.
    """
    path = workdir / "config.json"
    distributed.check_same("the config", json.dumps(plain(config), sort_keys=True))
    distributed.check_same("the data", json.dumps(dict(data), sort_keys=True))
    distributed.check_same("the model", json.dumps(model, sort_keys=True))
    with distributed.agreed():
        if distributed.is_main():
            _claim(workdir, path, config, data, model, defaults, free)
    with distributed.agreed():
        if not path.exists():
            raise UserError(
                f"{path}: process 0 has written it, but this process does not find it; expected a"
                " folder that all processes share: name one"
            )


def _claim(
    workdir: AnyPath,
    path: AnyPath,
    config: ConfigDict,
    data: Mapping[str, str],
    model: Mapping[str, Any] | None,
    defaults: ConfigDict,
    free: tuple[str, ...],
) -> None:
    ours = plain(config)
    if not path.exists():
        write_json(
            path,
            {
                "format": FORMAT,
                "config": ours,
                "data": dict(data),
                **({} if model is None else {"model": model}),
                "versions": {name: _version(name) for name in _PACKAGES},
                "git": _git_revision(),
                "devices": [str(device) for device in jax.devices()],
            },
        )
        return
    theirs, digests = read(path)
    # Another job or method has sections of its own, which are not those of another version.
    whole = filled(theirs, plain(defaults))
    _check_same(workdir, [row for row in differences(whole, ours) if row.startswith(_KINDS)])
    check_known(path, theirs, plain(defaults))
    theirs = whole
    if config.job == "memorization":
        # Members can be added to an ensemble, but not to finished findings, which used fewer.
        free = (*free, "memorization.members")
    ignored = (*_FREE, "parallel.", *(f"{field}: " for field in free))
    found = [row for row in differences(theirs, ours) if not row.startswith(ignored)]
    # A member of an ensemble trains on one device, however many there are.
    if not config.model.sync_batch_norm and config.job != "memorization":
        found += _other_devices(path, theirs, ours)
    changed = [part for part in sorted({*data, *digests}) if digests.get(part) != data.get(part)]
    _check_same(workdir, found)
    if changed:
        raise UserError(
            f"{workdir}: holds a run on other data ({', '.join(changed)} differ); name another"
            " folder, or give it the same data"
        )
    if model is not None:
        _check_model(workdir, path, model)
    _update(path, [field.split(".") for field in free], ours)


def _check_same(workdir: AnyPath, differing: Sequence[str]) -> None:
    """Raises a UserError if fields of a config differ from those of the folder's run."""
    if differing:
        raise UserError(
            f"{workdir}: holds a run of another config (field: there, here): "
            + "; ".join(differing)
            + "; name another folder, or run the same config (configs/evaluation.py evaluates a"
            " finished run in another way)"
        )


def _other_devices(path: AnyPath, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Returns in which number of devices two runs differ.

    Without synchronised batch norm, results depend on each device's share of the batch.
    """
    there = theirs["parallel"]["devices"] or len(_read(path).get("devices", ()))
    here = ours["parallel"]["devices"] or jax.device_count()
    return [] if there == here else [f"parallel.devices: {there}, {here}"]


def _check_model(workdir: AnyPath, path: AnyPath, model: Mapping[str, Any]) -> None:
    """Raises a UserError if the run of a folder was begun with a model of another description."""
    theirs = _read(path).get("model")
    if not isinstance(theirs, dict):  # Of an older version, which did not record it.
        return
    found = differences(theirs, model)
    if found:
        raise UserError(
            f"{workdir}: holds a run of another model (there, here): {'; '.join(found)}; name"
            " another folder, or give it the same model"
        )


def _update(path: AnyPath, fields: Sequence[Sequence[str]], ours: Mapping[str, Any]) -> None:
    """Gives fields of a run's config.json the values of another plain config."""
    content = _read(path)
    changed = False
    for section, field in fields:
        theirs = content["config"].setdefault(section, {})
        if field not in theirs or theirs[field] != ours[section][field]:
            theirs[field] = ours[section][field]
            changed = True
    if changed:
        write_json(path, content)


def read(path: AnyPath) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the plain config and the data digests from a run's config.json.

    Raises:
      UserError: the file is not a run's config, or is from a newer version.
    """
    content = _read(path)
    config, data = content.get("config"), content.get("data")
    if not isinstance(config, dict) or not isinstance(data, dict):
        raise UserError(
            f"{path}: not a run's config; expected an object with the objects config and data, as"
            " a run writes it"
        )
    return _from_format_1(config) if content.get("format", 1) == 1 else config, data


def _from_format_1(config: dict[str, Any]) -> dict[str, Any]:
    """Converts a config of format 1, whose program fields preceded the section `programs`."""
    new = {name: dict(part) if isinstance(part, dict) else part for name, part in config.items()}
    programs = {}
    for field, (section, name) in _FORMER_PLACES.items():
        if isinstance(new.get(section), dict):
            programs[field] = new[section].pop(name, None)
    if isinstance(new.get("model"), dict):
        lowering = new["model"].pop("lowering", None)
        # In format 1, the choice by back end had a name; now it is the default.
        convolution = None if lowering == "automatic" else lowering
        programs |= dict.fromkeys(_CONVOLUTIONS, convolution)
    return {**new, "programs": programs}


def check_known(path: AnyPath, config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises a UserError if a run's config has fields that this version does not know.

    Args:
      path: the run's config.json.
      config: the plain config in it.
      known: a plain config with every field of this version.
    """
    unknown = _unknown(config, known)
    if unknown:
        raise UserError(
            f"{path}: has fields that this version does not know: {', '.join(unknown)}; the run was"
            f" begun by {begun_by(path.parent)}, this is {program()}: use that version"
        )


def filled(
    config: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Returns a plain config with the defaults for the fields that it lacks."""
    whole = {**defaults, **config}
    for name, default in defaults.items():
        if _are_sections(f"{prefix}{name}", whole[name], default):
            whole[name] = filled(whole[name], default, f"{prefix}{name}.")
    return whole


def _are_sections(field: str, value: object, other: object) -> bool:
    """Returns whether both are config sections rather than mapping values."""
    is_value = field in _MAPPINGS
    return isinstance(value, Mapping) and isinstance(other, Mapping) and not is_value


def begun_by(folder: AnyPath) -> str:
    """Returns the version that started the run of a folder, for messages."""
    try:
        content = json.loads(read_plain(folder / "config.json", "the config of a run"))
        return _described(content["versions"]["bat_jax"], content["git"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "an unknown version"


def program() -> str:
    """Returns the version of this program, for messages."""
    return _described(_version("bat_jax"), _git_revision())


def _described(version: str | None, commit: str | None) -> str:
    return f"bat_jax {version or '(version unknown)'}" + (f" ({commit})" if commit else "")


def _read(path: AnyPath) -> dict[str, Any]:
    try:
        content = json.loads(read_plain(path, "the config of a run"))
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; expected the config of a run"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not a run's config ({in_short(error)}); expected config.json as"
            " a run writes it"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a run's config; expected an object, as a run writes it")
    number = content.get("format", 1)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise UserError(f"{path}: format is {number!r}; expected a number from 1 to {FORMAT}")
    if number > FORMAT:
        raise UserError(
            f"{path}: a run of format {number}, begun by {begun_by(path.parent)}; {program()} reads"
            f" formats up to {FORMAT}: use that version, or name another folder"
        )
    return content


def _unknown(config: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        if name not in known:
            found.append(f"{prefix}{name}")
        elif _are_sections(f"{prefix}{name}", value, known[name]):
            found += _unknown(value, known[name], f"{prefix}{name}.")
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # bat_jax itself, run from a clone without being installed.


def _git_revision() -> str | None:
    """Returns the commit of the code, with `-dirty` if modified; None if unknown."""
    # Without git's lock, which a killed run would leave in the repository.
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    command += ["describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
