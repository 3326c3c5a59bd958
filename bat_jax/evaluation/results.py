"""Accuracies, always with the number of images and a 95 % interval."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from scipy import stats

Accuracy = dict[str, Any]
GROUPS = ("typical", "atypical")


def accuracy(correct: Bool[np.ndarray, "images"]) -> Accuracy:
    """Returns the accuracy (0 to 1), the number of images and Wilson's 95 % interval."""
    hits, n = int(np.sum(correct)), len(correct)
    interval = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return {
        "accuracy": hits / n,
        "n": n,
        "interval": [round(float(interval.low), 6), round(float(interval.high), 6)],
    }


def summarize(
    verdicts: Mapping[str, Bool[np.ndarray, "images"]],
    groups: Mapping[str, Int64[np.ndarray, "rows"]],
) -> dict[str, Any]:
    """Returns the accuracy of every attack, on all images and on each group of rows.

    A group without images was not measured and is left out.

    Args:
      verdicts: per attack (`clean` is one), whether each image is classified correctly.
      groups: rows of, for instance, the typical and the atypical images.
    """
    summary: dict[str, Any] = {name: accuracy(correct) for name, correct in verdicts.items()}
    for group, rows in groups.items():
        if len(rows):
            summary[group] = {name: accuracy(correct[rows]) for name, correct in verdicts.items()}
    return summary


def table(results: Mapping[str, Any]) -> str:
    """Returns the results of the states as a table to print."""
    lines = [f"{'':<34}{'n':>7}  {'accuracy':>9}  95 % interval"]
    for checkpoint in ("best", "last"):
        if checkpoint not in results:
            continue
        test = results[checkpoint]["test"]
        groups = {"": test, **{name: test[name] for name in GROUPS if name in test}}
        for group, attacks in groups.items():
            for name, value in attacks.items():
                if name in GROUPS:
                    continue
                low, high = value["interval"]
                title = f"{checkpoint} {name}" + (f", {group}" if group else "")
                lines.append(
                    f"{title:<34}{value['n']:>7}  {100 * value['accuracy']:>7.2f} %  "
                    f"{100 * low:.2f} to {100 * high:.2f}"
                )
        if "broken_by" in results[checkpoint]:
            counts = results[checkpoint]["broken_by"].items()
            lines.append(
                f"{checkpoint}: images broken by "
                + ", ".join(f"{attack} {count}" for attack, count in counts)
            )
    return "\n".join(lines)
