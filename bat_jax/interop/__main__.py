"""Exports the weights of a run: `python -m bat_jax.interop export --run=DIR --out=FILE`.

Exit status: 0 done, 1 a checkpoint could not be read or memory ran out, 2 a wrong input.
"""

import sys
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from bat_jax import models, outside
from bat_jax.errors import UserError
from bat_jax.evaluation.records import STATES
from bat_jax.interop.weights import check_architecture, export_weights
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.quiet import quiet
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.saved import read_run, read_states
from bat_jax.training.trouble import CheckpointError


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    parser = Parser("bat_jax.interop", description="Weights to PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write a run's weights as a safetensors file")
    command.add_argument("--run", required=True, help="the run's folder")
    command.add_argument("--checkpoint", choices=STATES, default="best")
    command.add_argument("--out", required=True, help="the safetensors file to write")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file.
    if not options.run or str(options.out) in ("", "."):
        parser.error("--run or --out is empty; expected the run's folder and the file to write")

    def work() -> None:
        with quiet():
            export_run(as_path(options.run), options.checkpoint, Path(as_path(options.out)))
        print(f"weights: {options.out}")

    status = parser.outcome(work, options.run, failures=(CheckpointError,))
    if status:
        sys.exit(status)


def export_run(run: AnyPath, checkpoint: str, out: Path) -> None:
    """Writes the weights of a run's `best` or `last` checkpoint, as evaluation uses them.

    Args:
      run: the run's folder.
      checkpoint: `best` or `last`.
      out: the safetensors file.

    Raises:
      UserError: the folder holds no run, its data are not found or have changed, or its model is
        from outside the package or resizes images.
    """
    # The weights do not depend on the devices that trained them.
    experiment = read_run(run, ConfigDict({"parallel": {"devices": 1}}))
    model_config = experiment.config.model
    if outside.is_outside(model_config.name):
        raise UserError(
            f"{run}: its model, {model_config.name}, is from outside the package; expected one of"
            " the package: save its variables by bat_jax.interop.save_variables"
        )
    check_architecture(model_config.name)
    if model_config.resize is not None:
        raise UserError(
            f"{run}: config.model.resize is {model_config.resize}, which a file of weights does not"
            " hold; expected a run without it: save its variables by"
            " bat_jax.interop.save_variables, and resize the images where they are used"
        )
    variables = read_states(experiment, run)[checkpoint].state.evaluated
    model: Any = models.module_of(experiment.model)
    try:
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
    except OSError as error:
        reason = f"{error.strerror or error}; expected a file in a writable folder"
        raise UserError(f"{out}: {reason}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
