"""Exports the weights of a run: `python -m bat_jax.interop export --run=DIR --out=FILE`.

Exit status: 0 done, 1 a checkpoint could not be read, 2 a wrong input.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from absl import logging
from ml_collections import ConfigDict

from bat_jax import models
from bat_jax.errors import UserError
from bat_jax.evaluation.records import STATES
from bat_jax.interop.weights import export_weights
from bat_jax.runtime.quiet import quiet
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.saved import read_run, read_states
from bat_jax.training.trouble import CheckpointError


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends the program."""
        _fail(f"{message}; --help lists the arguments")


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    parser = _Parser("bat_jax.interop", description="Weights to PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write a run's weights as a safetensors file")
    command.add_argument("--run", required=True, help="the run's folder")
    command.add_argument("--checkpoint", choices=STATES, default="best")
    command.add_argument("--out", required=True, help="the safetensors file to write")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file.
    if not options.run or str(options.out) in ("", "."):
        parser.error("--run and --out: expected a folder and a file, found an empty one")
    try:
        with quiet():
            export_run(as_path(options.run), options.checkpoint, Path(as_path(options.out)))
    except UserError as error:
        _fail(str(error))
    except CheckpointError as error:
        _fail(str(error), status=1)
    except OSError as error:
        _fail(f"{options.out}: {error.strerror or error}; expected a place that can be written to")
    print(f"weights: {options.out}")


def export_run(run: AnyPath, checkpoint: str, out: Path) -> None:
    """Writes the weights of a run's `best` or `last` checkpoint, as evaluation uses them.

    Args:
      run: the run's folder.
      checkpoint: `best` or `last`.
      out: the safetensors file.

    Raises:
      UserError: the folder holds no run, or its data are not found or have changed.
    """
    # Weights do not depend on where they were trained.
    experiment = read_run(run, ConfigDict({"parallel": {"devices": 1}}))
    variables = read_states(experiment, run)[checkpoint].state.evaluated
    model: Any = models.module_of(experiment.model)
    model_config = experiment.config.model
    export_weights(
        out,
        model_config.name,
        variables,
        mean=model.mean,
        std=model.std,
        stem=model_config.stem,
        shortcut=model_config.shortcut,
        activation=model_config.activation,
    )


def _fail(message: str, *, status: int = 2) -> NoReturn:
    print(f"bat_jax.interop: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
