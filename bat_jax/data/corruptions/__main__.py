"""Makes corrupted versions of a data set's test images, in the layout of CIFAR-10-C.

    python -m bat_jax.data.corruptions --name=digits --out=digits-c

Exit status: 0 done, 1 a file could not be written or memory ran out, 2 a wrong input.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bat_jax.data.corruptions.files import IDS, LABELS, SEVERITIES
from bat_jax.data.corruptions.formulas import MADE, corrupted
from bat_jax.data.registry import load
from bat_jax.errors import UserError
from bat_jax.fields import Integer, refuse
from bat_jax.runtime.files import folder_written_whole
from bat_jax.runtime.parser import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the files, and returns the exit status."""
    parser = Parser("bat_jax.data.corruptions", description="Corrupts the test images of a set.")
    parser.add_argument("--name", required=True, help="the data set")
    parser.add_argument("--path", help="its archive or folder; default: the usual places")
    parser.add_argument("--out", required=True, type=Path, help="the folder to write")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the draws; default: 0")
    options = parser.parse_args(arguments)

    def work() -> None:
        make(options.name, options.path, options.out, seed=options.seed)
        names = ", ".join(map(repr, MADE))
        print(f"{options.out}: evaluate with --config.evaluation.corruptions.path={options.out}")
        print(f'  --config.evaluation.corruptions.names="({names})"')

    return parser.outcome(work, options.out)


def make(name: str, path: str | None, out: Path, *, seed: int) -> None:
    """Writes a file for each corruption, `labels.npy`, and the ids of the images in `ids.npy`.

    The folder has its name when all files are written.

    Raises:
      UserError: the data set is unknown or cannot be read, or the folder is not empty.
    """
    refuse("seed", seed, Integer(None, high=2**32 - 1).expected(seed))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; expected a new folder")
    test = load(name, path=path).test
    with folder_written_whole(out) as made:
        for corruption in MADE:
            versions = [
                corrupted(np.asarray(test.images), test.ids, corruption, severity, seed=seed)
                for severity in SEVERITIES
            ]
            _save(made / f"{corruption}.npy", np.concatenate(versions))
        _save(made / LABELS, np.tile(test.labels, len(SEVERITIES)))
        _save(made / IDS, test.ids)


def _save(path: Path, array: np.ndarray) -> None:
    np.save(path, array, allow_pickle=False)


if __name__ == "__main__":
    sys.exit(main())
