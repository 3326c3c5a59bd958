"""As many fast members as the time allows, and how their estimates agree with released ones."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bat_jax.data.dataset import positions
from bat_jax.ensemble.members import Ensemble
from bat_jax.memorization import Statistics, released
from bat_jax.memorization.estimator import EstimatorOutput
from bat_jax.memorization.store import Store
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment
from stages import ensemble as forms
from stages import recipes
from stages.machine import HIGHEST, precision
from stages.stage import Stage, Values, with_smaller_batches
from stages.typicality import CSCORES, PAIRS

EPOCHS = 15
# Seconds for the programs of a round, and for a round whose speed is not known.
COMPILATION, NEEDS = 45.0, 100.0
# Members at once where the stage `ensemble` has not measured what is fastest.
_AT_ONCE = 4
_MOST = 4_000


def run(stage: Stage) -> None:
    """Trains rounds of members, and compares all so far after each."""
    smoke = stage.run.smoke
    if stage.run.data is None:
        stage.skip("data", "there is no --data", precision="-", seeds=stage.run.seeds)
        return
    config = recipes.members(stage.run, epochs=2 if smoke else EPOCHS)
    fastest = forms.fastest(stage)
    execution, at_once = ("vmap", _AT_ONCE) if fastest is None else fastest.form
    config.programs.update(execution=execution, members_at_once=at_once)
    about: dict[str, Any] = {
        "precision": f"training {precision(config.model.dtype)}, scores {HIGHEST}",
        "seeds": (config.seed,),
    }
    # An unfinished round keeps nothing.
    needs = NEEDS if fastest is None else COMPILATION + at_once * fastest.seconds(EPOCHS)
    needs = 2 if smoke else needs
    if stage.clock.left < needs:
        left = max(stage.clock.left, 0)
        stage.skip("members", f"needs {needs:.0f} s, and {left:.0f} s are left", **about)
        return
    experiment = build(config)
    settings = config.memorization
    folder = stage.run.work / "memorization" / "members"
    folder.parent.mkdir(parents=True, exist_ok=True)
    store = Store(
        folder,
        train=len(experiment.train),
        test=len(experiment.dataset.test),
        statistic=settings.statistic,
        writes=True,
    )
    rounds = _Rounds(experiment, store, at_once=at_once, most=4 if smoke else _MOST)
    seconds = 0.0
    while rounds.missing:
        key = f"from member {rounds.missing[0]}"
        # Members whose folder is gone train again, for those that follow.
        key += ", again" if stage.has(key, by_card=False) else ""
        began = time.monotonic()
        values = stage.measure(
            key,
            lambda: {**rounds.train(), **_agreement(experiment, store, stage.run.released)},
            needs=seconds,
            by_card=False,
            **about,
        )
        if values is None:
            return
        seconds = time.monotonic() - began


class _Rounds:
    """Trains the members that the store lacks, in rounds that fit the memory."""

    def __init__(self, experiment: Experiment, store: Store, *, at_once: int, most: int) -> None:
        self._experiment, self._store, self._most = experiment, store, most
        self._at_once = at_once
        self._ensemble: Ensemble | None = None

    @property
    def missing(self) -> list[int]:
        """The members without scores."""
        return self._store.missing(self._most).tolist()

    def train(self) -> Values:
        """Trains a round."""
        found = with_smaller_batches(self._at_once, self._round)
        self._at_once = found.pop("batch")
        return found

    def _round(self, at_once: int) -> Values:
        missing = self.missing
        if self._ensemble is None or at_once != self._at_once:
            programs = dataclasses.replace(self._experiment.programs, members_at_once=at_once)
            experiment = dataclasses.replace(self._experiment, programs=programs)
            self._ensemble = Ensemble(experiment, members=len(missing))
        members = np.array(missing[: self._ensemble.round_size])
        began = time.monotonic()
        self._store.append(self._ensemble.train(members))
        seconds = time.monotonic() - began
        return {
            "members": self._most - len(self.missing),
            "at_once": at_once,
            "round_seconds": seconds,
            "members_an_hour": 3600 * len(members) / seconds,
        }


def _agreement(experiment: Experiment, store: Store, folder: Path | None) -> dict[str, Any]:
    """Returns the agreement of the estimates so far with what is released."""
    train, test = experiment.train, experiment.dataset.test
    statistics = Statistics(train.labels, test.labels, influence="class")
    for scores in store.read(_MOST):
        statistics.update(scores.masks, scores.train, scores.test)
    found = statistics.estimated()
    known = np.isfinite(found.memorization)
    values: dict[str, Any] = {
        "examples": int(known.sum()),
        "mean_memorization": float(np.mean(found.memorization[known])) if known.any() else None,
    }
    if folder is not None and (folder / CSCORES).exists():
        scores = released.load_cscores(folder / CSCORES)
        released.check_cscores(scores, train)
        values |= _compared("cscores", found.memorization, 1 - scores.scores[train.ids])
    if folder is not None and (folder / PAIRS).exists():
        pairs = released.load_pairs(folder / PAIRS)
        rows, columns = train.rows(pairs.train), test.rows(pairs.test)
        is_here = (rows >= 0) & (columns >= 0)
        rows, columns = rows[is_here], columns[is_here]
        values |= _compared(
            "pairs_memorization", found.memorization[rows], pairs.memorization[is_here]
        )
        values |= _compared(
            "pairs_influence", influence_of(found, rows, columns), pairs.influence[is_here]
        )
    return values


def influence_of(found: EstimatorOutput, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Returns the influence of pairs of rows; NaN for pairs of two classes."""
    values = np.full(len(train), np.nan)
    for block in found.influence:
        rows, columns = positions(block.train, train), positions(block.test, test)
        inside = (rows >= 0) & (columns >= 0)
        values[inside] = block.values[rows[inside], columns[inside]]
    return values


def _compared(name: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Returns rank correlation and cosine where both are known."""
    known = np.isfinite(ours) & np.isfinite(theirs)
    a, b = ours[known], theirs[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return {f"{name}_n": len(a)}
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    rank = float(stats.spearmanr(a, b).statistic)
    return {f"{name}_spearman": rank, f"{name}_cosine": cosine, f"{name}_n": len(a)}
