"""An experiment tracker from outside the package: CSV files, offline.

    python csv_tracker.py

A tracker is one class. This one writes a folder with `config.json`, `records.csv`, which has a line
for each value, and `results.json`; a tracker for Weights & Biases or MLflow would call their `log`
in the same places.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import page

import bat_jax
from bat_jax.training import Callback, Record


class CsvTracker(Callback):
    """Writes the records of a run to a folder."""

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)

    def on_start(self, config: Mapping[str, Any], step: int) -> None:
        """Writes the config, and keeps the records up to the step that the run resumes from."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "config.json").write_text(json.dumps(config, indent=2))
        path, kept = self._folder / "records.csv", []
        if step and path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.reader(file) if row[0].isdigit() and int(row[0]) <= step]
        self._file = path.open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerows([("step", "epoch", "split", "name", "value"), *kept])

    def on_record(self, record: Record) -> None:
        """Writes a line for each value."""
        for name, value in record.values.items():
            self._rows.writerow((record.step, record.epoch, record.split, name, value))
        self._file.flush()

    def on_end(self, results: Mapping[str, Any] | None) -> None:
        """Writes the results, if the run reached its end."""
        self._file.close()
        if results is not None:
            (self._folder / "results.json").write_text(json.dumps(results, indent=2))


def main() -> None:
    """Trains the config of `page.py` and tracks it in the folder `tracked`."""
    bat_jax.fit(page.get_config(), callbacks=[CsvTracker("tracked")])


if __name__ == "__main__":
    main()
