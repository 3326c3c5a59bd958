"""Exports the weights of a run: `python -m bat_jax.interop export --run=DIR --out=FILE`.

Exit status: 0 done, 2 a wrong input.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import workdir as workdirs
from bat_jax.errors import UserError
from bat_jax.interop.weights import export_weights
from bat_jax.training.checkpoints import Checkpoints
from bat_jax.training.experiment import Experiment, build


class _Record(NamedTuple):
    """What a run's config.json tells: its config, and the digests of its data."""

    config: ConfigDict
    data: dict[str, str]


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser("bat_jax.interop", description="Weights to PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write a run's weights as a safetensors file")
    command.add_argument("--run", type=Path, required=True, help="the run's folder")
    command.add_argument("--checkpoint", choices=("best", "last"), default="best")
    command.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file.
    try:
        export_run(options.run, options.checkpoint, options.out)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{options.out}: {error.strerror or error}; expected a place that can be written to")
    print(f"weights: {options.out}")


def export_run(run: Path, checkpoint: str, out: Path) -> None:
    """Writes the weights of a run's `best` or `last` checkpoint, as evaluation uses them.

    Args:
      run: the run's folder.
      checkpoint: `best` or `last`.
      out: the safetensors file.

    Raises:
      UserError: the folder holds no run, or its data are not found or have changed.
    """
    record = _record(run / "config.json")
    # Weights do not depend on where they were trained.
    record.config.parallel.devices = 1
    experiment = build(record.config)
    dataset = experiment.dataset
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        # The model's normalisation may come from the training images.
        if split.digest() != record.data.get(part):
            raise UserError(
                f"{run}: was trained on other {part} data than {dataset.name} holds now; give it"
                " the same data"
            )
    with workdirs.opened(run):
        variables = _variables(experiment, run, checkpoint)
    model: Any = experiment.model
    export_weights(
        out,
        record.config.model.name,
        variables,
        mean=model.mean,
        std=model.std,
        stem=record.config.model.stem,
    )


def _record(path: Path) -> _Record:
    config = configs.default()
    try:
        content = json.loads(path.read_bytes())
        config.update(_with_tuples(content["config"]))
        return _Record(config, dict(content["data"]))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected the folder of a run") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not the config of a training run of this version") from None


def _with_tuples(plain: Any) -> Any:
    """Returns what JSON held with tuples for its lists, as configs have them."""
    if isinstance(plain, dict):
        return {name: _with_tuples(value) for name, value in plain.items()}
    return tuple(plain) if isinstance(plain, list) else plain


def _variables(experiment: Experiment, run: Path, checkpoint: str) -> dict[str, Any]:
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the run's checkpoints: train it first")
    checkpoints = Checkpoints(
        folder,
        keep=experiment.config.checkpoint.keep,
        score=experiment.score,
        mesh=experiment.mesh,
    )
    try:
        shapes = jax.eval_shape(experiment.initial_state)
        saved = checkpoints.best(shapes) if checkpoint == "best" else checkpoints.latest(shapes)
    finally:
        checkpoints.close()
    if saved is None:
        raise UserError(f"{folder}: no checkpoint; expected the run's: train it first")
    return saved.state.evaluated


def _fail(message: str) -> None:
    print(f"bat_jax.interop: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
