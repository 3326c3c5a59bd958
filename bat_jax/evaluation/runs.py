"""What a finished run has left in its folder, as one record."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from bat_jax.errors import UserError
from bat_jax.runtime.storage import AnyPath, as_path

STATES = ("best", "last")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, or a finished evaluation of one.

    Attributes:
      folder: where it is.
      config: the plain config.
      about: what else config.json holds: versions, commit, devices, digests of the data.
      results: results.json.
      records: the lines of metrics.jsonl; none for an evaluation.
      examples: examples.npz: per test image its id, label and verdicts.
    """

    folder: AnyPath
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    results: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    examples: Mapping[str, Shaped[np.ndarray, "images"]]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def attack(self) -> str:
        """The strongest attack it was evaluated with: AutoAttack, a PGD, or `clean` for none."""
        test = self.results[self.states[0]]["test"]
        if "autoattack" in test:
            return "autoattack"
        return next((name for name in test if name.startswith("pgd")), "clean")

    @property
    def states(self) -> tuple[str, ...]:
        """Those of `best` and `last` that were evaluated."""
        return tuple(state for state in STATES if state in self.results)

    def series(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """Returns the epochs and the values of a metric that was recorded for a split."""
        rows = [r for r in self.records if r["split"] == split and name in r]
        return [float(r["epoch"]) for r in rows], [float(r[name]) for r in rows]


def read(folder: str | AnyPath) -> Run:
    """Reads a finished run.

    Raises:
      UserError: it is no run, or not finished.
    """
    folder = as_path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: has no config.json; expected the folder of a run")
    if not (folder / "results.json").is_file():
        raise UserError(
            f"{folder}: has no results.json; expected a finished run: run its command to the end"
        )
    try:
        about = json.loads((folder / "config.json").read_bytes())
        results = json.loads((folder / "results.json").read_bytes())
        metrics = folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.is_file() else []
        with (
            (folder / "examples.npz").open("rb") as opened,
            np.load(opened, allow_pickle=False) as file,
        ):
            examples = {name: file[name] for name in file.files}
        config = about.pop("config")
        if not any(state in results for state in STATES):
            raise KeyError("best or last")
        return Run(folder, config, about, results, tuple(map(json.loads, lines)), examples)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{folder}: not the files of a run ({error}); expected config.json, results.json and"
            " examples.npz as a run leaves them"
        ) from None


def title(attack: str) -> str:
    """Returns how a page calls an attack of results.json: `pgd20_margin` is PGD-20 (margin)."""
    if attack == "autoattack":
        return "AutoAttack"
    if attack.startswith("pgd"):
        steps, _, loss = attack.removeprefix("pgd").partition("_")
        return f"PGD-{steps}" + (f" ({loss})" if loss else "")
    return attack


def percent(value: float) -> str:
    """Returns a part of 1 in percent, one place after the point."""
    return f"{100 * value:.1f}"


def with_interval(accuracy: Mapping[str, Any]) -> str:
    """Returns an accuracy of results.json as `75.3 (71.1 to 79.0)`."""
    low, high = accuracy["interval"]
    return f"{percent(accuracy['accuracy'])} ({percent(low)} to {percent(high)})"
