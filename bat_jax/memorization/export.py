"""Exports the subsets and margins of an ensemble to the layouts of attribution libraries.

    python -m bat_jax.memorization.export RUN OUT --layout=datamodels

RUN is a finished memorization run with `memorization.estimator` margin. Rows and columns are in the
order of `tr_ids` and `tt_ids` in its memorization.npz. Exit status: 0 done, 1 a file cannot be read
or written or memory runs out, 2 a wrong input.

The files of OUT, by layout:

- `datamodels`: `masks.npy` (models, train; bool), `margins.npy` (models, test; float16) and
  `_completed.npy`, for `datamodels.regression.write_dataset --cfg.y_name=margins`.
- `dattri`: `metadata.yml`, and for each model a folder with `indices.txt` and `margins.npy`, for
  `dattri.metric.calculate_lds_ground_truth` with a target function that returns minus `margins.npy`
  beside the checkpoint it is asked for: dattri flips the sign.
- `quanda`: `subset_ids.yaml` and `margins.npy` (models, test; float32), for
  `LinearDatamodelingMetric(subset_ids="subset_ids.yaml", cache_dir=OUT, m=len(margins), ...)`,
  whose `update` takes `dict(enumerate(margins))` as `subset_logits`. Give any
  `subset_ckpt_filenames`, which it then does not read; without them it trains.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from bat_jax.errors import UserError
from bat_jax.memorization import estimates
from bat_jax.memorization.datamodeling import Subsets
from bat_jax.memorization.store import Scores, Store, joined
from bat_jax.runtime.files import folder_written_whole
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath, as_path

Layout = Literal["datamodels", "dattri", "quanda"]


def read(run: str | AnyPath) -> Scores:
    """Returns the subsets and margins of all members of a finished run, by number.

    Raises:
      UserError: the run is not finished, or recorded no margins.
    """
    folder = as_path(run)
    known = estimates.load(folder / "memorization.npz")
    if known.estimator != "margin":
        raise UserError(
            f"{folder}: its members recorded no margins; expected a run with"
            " --config.memorization.estimator=margin"
        )
    if known.in_count is None or known.out_count is None:
        raise UserError(f"{folder / 'memorization.npz'}: has no counts of members")
    members = int(known.in_count[0] + known.out_count[0])
    store = Store(
        folder / "members",
        train=len(known.train_ids),
        test=len(known.test_ids),
        statistic="margin",
    )
    if len(store.missing(members)):
        raise UserError(
            f"{folder / 'members'}: lacks {len(store.missing(members)):,} of {members:,} members;"
            " run the command of this run to the end"
        )
    parts = list(store.read(members))
    scores = joined(parts)
    return scores.of(np.argsort(scores.members))


def subsets(run: str | AnyPath) -> Subsets:
    """Returns the members of a finished run for `bat_jax.memorization.lds`.

    Raises:
      UserError: the run is not finished, or recorded no margins.
    """
    scores = read(run)
    return Subsets(scores.masks, scores.test)


def export(run: str | AnyPath, out: str | Path, *, layout: Layout) -> Path:
    """Writes the subsets and margins of a finished run into a new folder, and returns it.

    Args:
      run: the folder of the run.
      out: the folder to create.
      layout: `datamodels`, `dattri` or `quanda`; the module has their files.

    Raises:
      UserError: the run is not finished or recorded no margins, the folder exists or is in a
        bucket, or the layout is unknown.
    """
    if layout not in _LAYOUTS:
        raise UserError(f"layout is {layout!r}; expected one of {', '.join(_LAYOUTS)}")
    if "://" in str(out):
        raise UserError(f"{out}: is in a bucket; expected the name of a folder on a disk")
    out = Path(out)
    if out.exists():
        raise UserError(f"{out}: exists; expected the name of a folder to create")
    scores = read(run)
    with folder_written_whole(out) as made:
        _LAYOUTS[layout](scores, made, out)
    return out


def _datamodels(scores: Scores, out: Path, final: Path) -> None:
    del final
    np.save(out / "masks.npy", scores.masks)
    np.save(out / "margins.npy", scores.test.astype(np.float16))
    np.save(out / "_completed.npy", np.ones(len(scores.members), bool))


def _dattri(scores: Scores, out: Path, final: Path) -> None:
    folders = {
        number: str((final / str(number)).resolve()) for number in range(len(scores.members))
    }
    for number in folders:
        folder = out / str(number)
        folder.mkdir()
        rows = np.flatnonzero(scores.masks[number])
        (folder / "indices.txt").write_text("".join(f"{row}\n" for row in rows))
        np.save(folder / "margins.npy", scores.test[number].astype(np.float32))
    lines = ["mode: lds", f"num_subsets: {len(folders)}", "num_runs_per_subset: 1"]
    lines += ["subset_dir_map:"]
    # JSON's strings are YAML's.
    lines += [f"  {number}: {json.dumps(folder)}" for number, folder in folders.items()]
    (out / "metadata.yml").write_text("\n".join(lines) + "\n")


def _quanda(scores: Scores, out: Path, final: Path) -> None:
    del final
    rows = [np.flatnonzero(mask).tolist() for mask in scores.masks]
    (out / "subset_ids.yaml").write_text("".join(f"- {json.dumps(one)}\n" for one in rows))
    np.save(out / "margins.npy", scores.test.astype(np.float32))


# They take the folder to write into, and the name that it gets in the end.
_LAYOUTS: dict[str, Callable[[Scores, Path, Path], None]] = {
    "datamodels": _datamodels,
    "dattri": _dattri,
    "quanda": _quanda,
}


def main(arguments: list[str] | None = None) -> int:
    """Exports a run and prints the folder."""
    parser = Parser(
        "python -m bat_jax.memorization.export",
        description="Export the subsets and margins of a memorization run.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("out", metavar="OUT", help="the folder to create")
    parser.add_argument("--layout", choices=tuple(_LAYOUTS), required=True)
    options = parser.parse_args(arguments)

    def work() -> None:
        print(f"exported: {export(options.run, options.out, layout=options.layout)}")

    return parser.outcome(work, options.out)


if __name__ == "__main__":
    sys.exit(main())
