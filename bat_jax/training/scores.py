"""The scores of checkpoints: read from their files, and which checkpoints to keep by them."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bat_jax.runtime.storage import AnyPath
from bat_jax.training.trouble import MISSING, irregular, persistently

COLLAPSED = "collapsed"
"""The validation metric that marks a state as collapsed (1) or good (0)."""
FGSM = "fgsm"
"""The validation metric of a watched training: accuracy under one step of length epsilon."""


class Scored(NamedTuple):
    """What the validation of a checkpoint showed.

    Attributes:
      score: the metric that ranks checkpoints: None if not scored, NaN if the score is damaged.
      is_good: whether training was watched for a collapse, and the state has not collapsed.
      has_collapsed: whether training was watched, and the state has collapsed.
    """

    score: float | None = None
    is_good: bool = False
    has_collapsed: bool = False

    @classmethod
    def of(cls, metrics: Mapping[str, Any], name: str) -> "Scored":
        """Returns what validation metrics show, ranked by the metric `name`."""
        score, flag = (_number(metrics.get(key)) for key in (name, COLLAPSED))
        is_known = score is not None and not math.isnan(score)
        return cls(score, is_known and flag == 0, is_known and flag == 1)

    @property
    def is_damaged(self) -> bool:
        """Whether the score was written, and cannot be read."""
        return self.score is not None and math.isnan(self.score)


DAMAGED = Scored(math.nan)


def read(checkpoint: AnyPath, name: str) -> Scored:
    """Reads what the validation of a checkpoint showed.

    Args:
      checkpoint: the folder of the checkpoint.
      name: the metric that ranks checkpoints.

    Raises:
      CheckpointError: a system error prevented reading it.
    """
    if irregular(checkpoint):
        return DAMAGED
    item = checkpoint / "metrics"
    try:
        content = persistently(lambda: (item / "metrics").read_bytes(), item)
    except MISSING:
        return DAMAGED if item.exists() else Scored()
    try:
        return Scored.of(json.loads(content), name)
    except (ValueError, AttributeError, RecursionError):
        return DAMAGED


def best_first(scored: Mapping[int, Scored]) -> list[int]:
    """Returns the steps with a score, the best first; among equal scores, the newest."""
    known = [
        (found.score, step)
        for step, found in scored.items()
        if found.score is not None and not found.is_damaged
    ]
    return [step for _, step in sorted(known, reverse=True)]


class Kept:
    """Keeps the newest checkpoints, the best, the last good, and those with a damaged score."""

    def __init__(self, newest: int, scored: Mapping[int, Scored]) -> None:
        """Starts with what is known, to which later checkpoints are added.

        Args:
          newest: how many recent checkpoints to keep.
          scored: what is known of each step.
        """
        self._newest, self._scored = newest, scored

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns which checkpoints, given in order of their steps, to keep."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        scored = {step: self._scored.get(step, Scored()) for step in steps}
        kept = {
            *steps[-self._newest :],
            *best_first(scored)[:1],
            *[step for step in steps if scored[step].is_good][-1:],
            *[step for step in steps if scored[step].is_damaged],
        }
        return [step in kept for step in steps]


def is_number(value: object) -> bool:
    """Returns whether a value of a JSON file is a finite number, within the range of floats."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # Not math.isfinite, which raises OverflowError for integers beyond that range.
    return abs(value) <= sys.float_info.max


def _number(value: Any) -> float | None:
    """Returns a metric: None if it is absent, NaN if it is damaged."""
    return value if value is None or is_number(value) else math.nan
