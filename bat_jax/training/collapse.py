"""Catastrophic overfitting: how it is detected, and how training goes back from it.

In a collapse, robustness to attacks of several steps falls to almost 0 within an epoch, while
accuracy under one step rises (Wong et al., arXiv:2001.03994). PGD and FGSM on the validation images
show it. In robust overfitting, both fall together.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from bat_jax.runtime import distributed, schema
from bat_jax.runtime.files import write_json
from bat_jax.runtime.schema import Number, Object
from bat_jax.runtime.storage import AnyPath
from bat_jax.training.checkpoints import Saved
from bat_jax.training.experiment import Experiment
from bat_jax.training.scores import COLLAPSED, FGSM

log = logging.getLogger(__name__)

FILE = "collapse.json"
"""The file of the last retry, in the folder of a run."""
_POSITIVE = Number(low=1, whole=True)
_RETRY = Object(
    {"collapsed_step": _POSITIVE, "retries": _POSITIVE, "seconds": Number(low=0)},
)


class Collapsed(Exception):
    """Training collapsed, and the config lets it go back to the last good state.

    Attributes:
      step: the step of the collapsed state.
      seconds: the seconds of training until then.
    """

    def __init__(self, step: int, seconds: float) -> None:
        """Keeps the step and the seconds."""
        super().__init__(f"step {step}: training collapsed")
        self.step, self.seconds = step, seconds


class Retry(NamedTuple):
    """Training that goes back from a collapse.

    Attributes:
      collapsed_step: the step of the collapsed state.
      retries: how many times training has gone back, including this time.
      seconds: the seconds of training until it went back.
    """

    collapsed_step: int
    retries: int
    seconds: float

    def of(self, good: Saved) -> Saved:
        """Returns the good state as the start of this retry."""
        return good._replace(retries=self.retries, seconds=self.seconds)

    def remember(self, workdir: AnyPath) -> None:
        """Writes the retry, which the checkpoint of the good state is too old to hold."""
        with distributed.agreed():
            if distributed.is_main():
                write_json(workdir / FILE, self._asdict())


def remembered(workdir: AnyPath, start: Saved) -> Retry | None:
    """Returns the retry that a stopped run had begun at a state, if any.

    Args:
      workdir: the run's folder.
      start: the state that the run resumes from.

    Raises:
      UserError: the file of the retry is damaged.
    """
    path, step = workdir / FILE, int(start.state.step)
    with distributed.agreed():
        if not path.exists():
            return None
        retry = Retry(**schema.read(path, _RETRY, "the last retry of a run"))
    # A collapsed state has not gone back yet, and later states hold their number of retries.
    is_begun = 0 < step < retry.collapsed_step and start.retries < retry.retries
    return retry if is_begun else None


class Watch:
    """Compares the robust accuracy of each scored state with the highest among the good states.

    Its accuracy under PGD has fallen if it is below `below` times the highest, and the highest is
    clearly above the accuracy c of guessing, the share of the most common class of the n images:
    above c + 3 sqrt(c (1 - c) / n). A state has collapsed if this accuracy has fallen and is below
    `below` times that under FGSM or at most c, or clean accuracy is at most 2 c or, with few
    classes, the middle of c and 1. All other states are good. FGSM is the same for every method and
    retry: a yardstick that changed with the training attack would not do.
    """

    def __init__(
        self,
        config: ConfigDict,
        *,
        score: str,
        labels: Int[np.ndarray, " images"],
        highest: float,
    ) -> None:
        """Starts to watch.

        Args:
          config: `config.train.collapse`.
          score: the name of the accuracy under PGD.
          labels: of the validation images, which set the accuracy of guessing.
          highest: the highest accuracy of a good state so far, 0 without any.
        """
        chance = float(np.bincount(labels).max()) / len(labels)
        self._below, self._score = config.below, score
        self._chance, self._lost = chance, min(2 * chance, (chance + 1) / 2)
        self._least = chance + 3 * math.sqrt(chance * (1 - chance) / len(labels))
        self._highest = highest
        self._overfits = False

    def flagged(self, step: int, scores: Mapping[str, float]) -> dict[str, float]:
        """Returns the scores with the flag `collapsed`, 1 or 0, and warns of a collapse."""
        robust, highest = scores[self._score], self._highest
        clean, fgsm = scores["clean"], scores[FGSM]
        has_fallen = highest > self._least and robust < self._below * highest
        is_lost = clean <= self._lost or robust <= self._chance or robust < self._below * fgsm
        if has_fallen and (is_lost or not self._overfits):
            log.warning(
                "step %d: %s: accuracy under %s fell from %.1f %% to %.1f %%; under FGSM it is"
                " %.1f %%, clean %.1f %%; %s",
                step,
                "training collapsed" if is_lost else "robust overfitting",
                self._score,
                100 * highest,
                100 * robust,
                100 * fgsm,
                100 * clean,
                "the last good state is kept" if is_lost else "training goes on",
            )
            self._overfits |= not is_lost
        self._highest = max(highest, robust)
        return {**scores, COLLAPSED: float(has_fallen and is_lost)}


def gentler(experiment: Experiment, retries: int) -> Experiment:
    """Returns the experiment with the attack's step size for the given number of retries."""
    if not retries:
        return experiment
    config = experiment.config.copy_and_resolve_references()
    config.attack.step_size *= config.train.collapse.factor**retries
    return dataclasses.replace(experiment, config=config)
