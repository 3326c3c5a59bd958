"""Checkpoints by Orbax: written while training goes on, last and best kept, checked when read."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from bat_jax.errors import UserError
from bat_jax.parallel import REPLICATED
from bat_jax.runtime import distributed
from bat_jax.runtime.storage import AnyPath, absolute
from bat_jax.training.state import TrainState, fingerprint

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written."""


class Saved(NamedTuple):
    """What a checkpoint gives back: the state, and the seconds of training that led to it."""

    state: TrainState
    seconds: float


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint holds the state and, as separate items, its fingerprint and the validation metrics
    it was scored with, if it was. One that cannot be read, or whose state does not have its
    fingerprint, is damaged: another takes its place.
    """

    def __init__(self, folder: AnyPath, *, keep: int, score: str, mesh: Mesh):
        """Opens the folder, or makes it.

        Args:
          folder: where checkpoints are.
          keep: how many of the last to keep, beside the best.
          score: the validation metric that the best has most of.
          mesh: the devices that a state is restored to, a whole copy on each.
        """
        self._score = score
        self._sharding = NamedSharding(mesh, REPLICATED)
        self._folder = absolute(folder)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(keep),
                        BestN(
                            get_metric_fn=lambda metrics: metrics[score],
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                # Without it Orbax does not write the metrics that the policy reads on resuming.
                best_fn=lambda metrics: metrics[score],
                cleanup_tmp_directories=True,
            ),
            item_names=("state", "check", "metrics"),
        )

    def save(
        self, state: TrainState, *, seconds: float, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Begins to write the state, with the metrics it was scored with; training may go on."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    check=ocp.args.JsonSave(
                        {"fingerprint": int(fingerprint(state)), "seconds": seconds}
                    ),
                ),
                metrics=dict(metrics) if metrics else None,
            )

    def latest(self, like: TrainState, *, discard_damaged: bool = False) -> Saved | None:
        """Returns the newest state that is whole, or None where there is no checkpoint.

        Args:
          like: a state with the shapes to expect.
          discard_damaged: remove the damaged checkpoints after the one returned, so that training
            can write theirs again.

        Raises:
          UserError: there are checkpoints, and all of them are damaged.
        """
        steps = self._steps()
        if not steps:
            return None
        found, damaged = self._first_whole(like, sorted(steps, reverse=True))
        if discard_damaged:
            for step in damaged:
                self._manager.delete(step)
        return found

    def best(self, like: TrainState) -> Saved:
        """Returns the whole state of the best score; of equal ones the newest.

        Args:
          like: a state with the shapes to expect.

        Raises:
          UserError: no checkpoint was scored, or none that was is whole.
        """
        scores = {step: self._score_of(step) for step in self._steps()}
        scored = {step: score for step, score in scores.items() if score is not None}
        if not scored:
            raise UserError(
                f"{self._folder}: no checkpoint was scored by {self._score}; expected one that"
                " was, at the end of an epoch: train the run further"
            )
        ranked = sorted(scored, key=lambda step: (scored[step], step), reverse=True)
        return self._first_whole(like, ranked)[0]

    def wait(self) -> None:
        """Returns when what is being written is complete under its final name."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the writing threads."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Gives what Orbax and TensorStore raise, of no common class, one name and one line."""
        try:
            yield
        except Exception as error:
            lost = distributed.peer_lost(error)
            if lost is not None:
                raise lost from error
            reason = " ".join(str(error).split()).rpartition(": ")[2].partition(" [")[0]
            raise CheckpointError(
                f"{self._folder}: a checkpoint could not be written ({reason}); those before it are"
                " whole: mend the folder or free space, and run the same command to go on"
            ) from error

    def _steps(self) -> list[int]:
        self.wait()
        return list(self._manager.all_steps())

    def _score_of(self, step: int) -> float | None:
        try:
            return (self._manager.metrics(step) or {}).get(self._score)
        except ValueError:
            log.warning("checkpoint %s/%d: its score cannot be read", self._folder, step)
            return None

    def _first_whole(self, like: TrainState, steps: list[int]) -> tuple[Saved, list[int]]:
        """Returns the first whole state of these steps, and the damaged ones before it."""
        for number, step in enumerate(steps):
            saved = self._read(step, like)
            # What one process cannot read, none takes: they go on from the same step.
            if not distributed.anywhere(saved is None):
                assert saved is not None
                return saved, steps[:number]
            log.warning("checkpoint %s/%d is damaged: falling back to another", self._folder, step)
        raise UserError(
            f"{self._folder}: every checkpoint is damaged ({len(steps)} found); restore one, or"
            " remove the run's folder to begin anew"
        )

    def _read(self, step: int, like: TrainState) -> Saved | None:
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._sharding),
            like,
        )
        # Whatever else a damaged file makes Orbax or TensorStore raise, of no common class, means
        # one thing here: this checkpoint cannot be used. These say nothing of the file.
        try:
            restored: Any = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(shapes), check=ocp.args.JsonRestore()
                ),
            )
            if int(fingerprint(restored.state)) != restored.check["fingerprint"]:
                return None
        except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            log.debug("checkpoint %d: %s", step, error)
            return None
        return Saved(restored.state, restored.check["seconds"])
