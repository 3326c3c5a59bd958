"""Parses the command line, with all checks that are possible without JAX."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

import bat_jax
from bat_jax import config as configs
from bat_jax import environment, fields, overrides, pages
from bat_jax.errors import UserError, in_short
from bat_jax.fields import Flag, Integer, Text, shown
from bat_jax.overrides import Override

_HELP = """\
Runs the experiment of a config: trains, resumes, evaluates or estimates memorization.

  {program} --config=digits_bat                          a page of this package, by name
  {program} --config=my/page.py --config.train.epochs=3  your own page, with one field changed

The same command resumes an interrupted run. With several hosts, start the same command on each: TPU
pods, Slurm and Kubernetes are recognised; elsewhere, set --coordinator, --num_processes and
--process_id.

  --config=NAME or FILE
      The experiment: a page by its name, or a Python file whose get_config() returns a config.
  --config.SECTION.FIELD=VALUE
      Sets a field of the config: numbers (0.1 or 8/255), words, true or false, tuples such as
      "(1.0, 2.0)"; None unsets a number or tuple that is optional. --dry_run prints all fields.
{options}

Exit status: 0 done, 1 the run or another process failed, 2 wrong input, 128 + n stopped by signal
n, 134 ended by JAX's runtime because another process is gone.
"""

_OPTIONS: dict[str, tuple[Text | Integer | Flag, str]] = {
    "workdir": (Text(None), "The run's folder; default: runs/<config name>."),
    "dry_run": (
        Flag(None),
        "Print the config, parameters, FLOPs and memory of a step; train nothing.",
    ),
    "compilation_cache": (
        Text(None),
        "The folder of compiled programs, or none; default: one in the user's cache folder.",
    ),
    "aot_topology": (
        Text(None),
        "Compile the training step for a TPU slice such as v5e:16x16, and print its cost; train"
        " nothing.",
    ),
    "coordinator": (
        Text(None),
        "host:port of process 0, if the cluster is not recognised.",
    ),
    "num_processes": (
        Integer(None, low=1),
        "The number of processes that run together; 1 disables the search for a cluster.",
    ),
    "process_id": (Integer(None), "The number of this process, from 0."),
    "join_timeout": (
        Integer(300, low=1),
        "The seconds that processes wait for one another at the start.",
    ),
    "version": (Flag(None), "Print the version."),
    "help": (Flag(None), "Print this text."),
}

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
_CONFIG = re.compile(r"--?config(?:=(.*))?", re.DOTALL)
_NUMBER = re.compile(r"-[\d.]")
_LONGEST_REASON = 300


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    Attributes:
      config: the checked config, with the command line's changes.
      name: the name of the config's page.
      workdir: the run's folder, if given.
      dry_run: whether to print the cost of the run instead of running it.
      compilation_cache: as for `bat_jax.runtime.backend.prepare`.
      aot_topology: the TPU slice to compile for, if any.
      coordinator: as for `bat_jax.runtime.distributed.initialize`.
      num_processes: as there.
      process_id: as there.
      join_timeout: as there.
    """

    config: ConfigDict
    name: str
    workdir: str | None
    dry_run: bool
    compilation_cache: str | None
    aot_topology: str | None
    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    join_timeout: int


def help_text(program: str) -> str:
    """Returns what `--help` prints."""
    options = []
    for name, (field, meaning) in _OPTIONS.items():
        value = "" if isinstance(field, Flag) else "=N" if isinstance(field, Integer) else "=TEXT"
        options.append(f"  --{name}{value}\n      {meaning}")
    return _HELP.format(program=program, options="\n".join(options))


def parse(arguments: Sequence[str], *, program: str = "bat-jax") -> Arguments | str:
    """Parses a command line; returns the help or the version, as text, if it asks for them.

    Args:
      arguments: those of the command line, without the program's name.
      program: the name that the help shows.

    Raises:
      UserError: an argument, the page or a field of the config is wrong.
    """
    try:
        expanded = flags.FlagValues().read_flags_from_files([*arguments], force_gnu=False)
        page, changes, rest = _split(expanded)
        found = _options(rest)
    except flags.Error as error:
        words = " ".join(str(error).removeprefix("ERROR:: ").split())
        raise UserError(repr(words)[1:-1][:_LONGEST_REASON]) from None
    if found.pop("help"):
        return help_text(program)
    if found.pop("version"):
        return f"bat_jax {bat_jax.__version__}"
    if page is None:
        raise UserError(
            "--config is not set; expected a page, such as --config=configs/digits_bat.py"
        )
    path = _page(page)
    _check_early(changes)
    # Before the page, whose methods import JAX.
    environment.check()
    config = overrides.load(path)
    overrides.apply(config, [change for change in changes if change.field == "objective.name"])
    if "objective" in config:
        # Adds the section of a method from outside, which the command line may name. Methods import
        # JAX, so this comes after all cheaper checks.
        from bat_jax import methods

        methods.complete(config)
    overrides.apply(config, changes)
    configs.check(config)
    return Arguments(config=config, name=path.stem, **found)


def _check_early(changes: Sequence[Override]) -> None:
    """Rejects what is wrong on any page: a field that no job has, or a value that is illegal.

    The page knows the fields of a method and those of open sections, such as `findings.arms`, and
    which fields its job may leave unset.
    """
    config, schema = configs.known()
    known = [change for change in changes if not _is_of_the_page(schema, change.field)]
    overrides.apply(config, [change for change in known if change.text != "None"])
    fields.check(config, schema)
    overrides.apply(config, [change for change in known if change.text == "None"])


def _is_of_the_page(schema: fields.Schema, field: str) -> bool:
    """Returns whether a field is in a section whose fields only the page knows."""
    section: Any = schema
    for name in field.split(".")[:-1]:
        section = section.get(name, {})
        if isinstance(section, fields.Open):
            return True
        if isinstance(section, fields.Field):
            return False
    return field.startswith("objective.")


def _split(arguments: Sequence[str]) -> tuple[str | None, list[Override], list[str]]:
    """Returns the page, the changes to its config, and the other arguments."""
    page, changes, rest = None, [], []
    waiting = [*arguments]
    while waiting:
        argument = waiting.pop(0)
        override, config = _OVERRIDE.fullmatch(argument), _CONFIG.fullmatch(argument)
        match = override or config
        if match is None:
            rest.append(argument)
            continue
        value = match[match.lastindex or 0] if "=" in argument else None
        if override and override[1] and value is not None:
            raise UserError(
                f"{argument}: has a value; expected --noconfig.{override[2]} alone, which sets the"
                f" field to False, or --config.{override[2]}={value}"
            )
        is_alone = not waiting or (waiting[0].startswith("-") and not _NUMBER.match(waiting[0]))
        if value is None and not is_alone and not (override and override[1]):
            value = waiting.pop(0)
        if override:
            changes.append(Override(override[2], "false" if override[1] else value))
        else:
            page = value or ""
    return page, changes, rest


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the value of every option."""
    values = flags.FlagValues()
    for name, (field, meaning) in _OPTIONS.items():
        define = flags.DEFINE_bool if isinstance(field, Flag) else flags.DEFINE_string
        define(name, None, meaning, flag_values=values)
    rest = values(["", *arguments])
    if len(rest) > 1:
        raise UserError(
            f"unknown argument {shown(rest[1])}; expected flags such as --config=configs/<name>.py"
        )
    return {name: _value(name, field, values[name].value) for name, (field, _) in _OPTIONS.items()}


def _value(name: str, field: Text | Integer | Flag, given: str | bool | None) -> str | int | None:
    if isinstance(field, Flag):
        return bool(given)
    if given is None:
        return field.default
    value: str | int | bool = given
    if isinstance(field, Integer) and re.fullmatch(r"[-+]?\d{1,20}", str(given)):
        value = int(given)
    expected = field.expected(value)
    if expected is not None:
        raise UserError(f"--{name} is {shown(given)}; expected {expected}")
    return value


def _page(page: str) -> Path:
    """Returns the file of a page, given by path or by name."""
    expected = Text(None).expected(page)
    if expected is not None:
        raise UserError(f"--config is {shown(page)}; expected {expected}")
    if "/" in page or "." in page:
        try:
            return Path(page).expanduser()
        except RuntimeError as error:
            raise UserError(f"--config is {shown(page)}; {in_short(error)}; name a file") from None
    return pages.find(page)
