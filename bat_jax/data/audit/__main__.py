"""Audits a data set, or the data of a run.

    python -m bat_jax.data.audit --name=cifar100 --path=FILE [--json=FILE]
    python -m bat_jax.data.audit --run=RUN

The second writes `audit.json` into the run's folder, which `python -m bat_jax.report RUN` shows.
Exit status: 0 done, 1 a file could not be read or written or memory ran out, 2 a wrong input.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bat_jax.data.audit.findings import FILE, TOLERANCE, audit, text
from bat_jax.data.classes import select
from bat_jax.data.registry import load
from bat_jax.errors import UserError
from bat_jax.fields import Real
from bat_jax.runtime import workdir
from bat_jax.runtime.files import write_json
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath, as_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints or writes the audit, and returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)

    def work() -> None:
        tolerance = _tolerance(options.tolerance)
        if options.run is not None:
            found = audit_run(as_path(options.run), path=options.path, tolerance=tolerance)
        else:
            found = audit(load(options.name, path=options.path), tolerance=tolerance)
        if options.json not in (None, "-"):
            write_json(as_path(options.json), found)
        print(json.dumps(found, indent=2) if options.json == "-" else text(found))

    return parser.outcome(work, options.json or options.run or options.name)


def audit_run(run: AnyPath, *, path: str | None = None, tolerance: float) -> dict[str, Any]:
    """Audits the data of a run, writes `audit.json` into its folder, and returns its content.

    Args:
      run: the run's folder.
      path: the path of the data, if they have moved.
      tolerance: as for `audit`.

    Raises:
      UserError: the run does not exist, or its data are missing or have changed.
      OSError: the file cannot be written.
    """
    place = run / "config.json"
    if not place.exists():
        raise UserError(f"{run}: has no config.json; expected the folder of a run")
    config, digests = workdir.read(place)
    data = config.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise UserError(f"{place}: has no data.name; expected the config of a run")
    _check_tested(run, config)
    dataset = load(
        data["name"],
        path=path or data.get("path"),
        side=data.get("side"),
        cache=data.get("cache"),
    )
    if data.get("classes") is not None:
        dataset = select(dataset, data["classes"])
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        if digests.get(part) != split.digest():
            raise UserError(
                f"{run}: was made with other {part} data than {dataset.name} holds now; expected"
                " the same data: name them with --path"
            )
    found = audit(dataset, tolerance=tolerance)
    write_json(run / FILE, found)
    return found


def _check_tested(run: AnyPath, config: Mapping[str, Any]) -> None:
    """Raises a UserError if a run was tested on other images than the test set of its data."""
    fields = [("data", "tested")]
    if config.get("job") == "memorization":
        fields.append(("memorization", "test_images"))
    for section, field in fields:
        if config.get(section, {}).get(field):
            name = config["data"]["name"]
            raise UserError(
                f"{run}: has other test images than {name}, by config.{section}.{field}; expected a"
                f" run on all of them: audit the whole data set with --name={name}"
            )


def _parser() -> Parser:
    parser = Parser("python -m bat_jax.data.audit", description="Audits a data set.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--name", help="the data set, as config.data.name takes it")
    source.add_argument("--run", help="the folder of a run, which receives audit.json")
    parser.add_argument("--path", help="its archive or folder, as config.data.path takes it")
    parser.add_argument(
        "--tolerance",
        default=str(TOLERANCE),
        help="the largest difference of near duplicates (default: %(default)s)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write JSON into a file, or without one print it in place of the text",
    )
    return parser


def _tolerance(argument: str) -> float:
    try:
        value = float(argument)
    except ValueError:
        value = float("nan")
    expected = Real(TOLERANCE, low=0, below=1).expected(value)
    if expected is not None:
        raise UserError(f"--tolerance is {argument!r}; expected {expected}")
    return value


if __name__ == "__main__":
    sys.exit(main())
