"""Checkpoints by Orbax: written while training goes on, last and best kept, checked when read."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from bat_jax.errors import UserError
from bat_jax.parallel import REPLICATED
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
    fingerprint, is damaged: it is removed and the one before takes its place.
    """

    def __init__(self, folder: Path, *, keep: int, score: str, mesh: Mesh):
        """Opens the folder, or makes it.

        Args:
          folder: where checkpoints are.
          keep: how many of the last to keep, beside the best.
          score: the validation metric that the best has most of.
          mesh: the devices that a state is restored to, a whole copy on each.
        """
        self._score = score
        self._sharding = NamedSharding(mesh, REPLICATED)
        self._folder = folder.absolute()
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

    def latest(self, like: TrainState) -> Saved | None:
        """Returns the newest state that is whole, or None where there is no checkpoint.

        Args:
          like: a state with the shapes to expect.

        Raises:
          UserError: there are checkpoints, and all of them are damaged.
        """
        return self._first_whole(like, lambda steps: max(steps))

    def best(self, like: TrainState) -> Saved:
        """Returns the whole state of the best score; of equal ones the newest.

        Args:
          like: a state with the shapes to expect.

        Raises:
          UserError: no checkpoint is whole.
        """
        saved = self._first_whole(like, lambda steps: max(steps, key=self._rank))
        if saved is None:
            raise UserError(f"{self._folder}: no checkpoint; expected the run's: train it first")
        return saved

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
            reason = " ".join(str(error).split()).rpartition(": ")[2].partition(" [")[0]
            raise CheckpointError(
                f"{self._folder}: a checkpoint could not be written ({reason}); those before it are"
                " whole: mend the folder or free space, and run the same command to go on"
            ) from error

    def _rank(self, step: int) -> tuple[float, int]:
        metrics = self._manager.metrics(step) or {}
        return metrics.get(self._score, -math.inf), step

    def _first_whole(self, like: TrainState, choose: Callable[[list[int]], int]) -> Saved | None:
        self.wait()
        steps = list(self._manager.all_steps())
        if not steps:
            return None
        while steps:
            step = choose(steps)
            saved = self._read(step, like)
            if saved is not None:
                return saved
            log.warning(
                "checkpoint %s/%d is damaged: removing it and falling back to the one before",
                self._folder,
                step,
            )
            self._manager.delete(step)
            steps.remove(step)
        raise UserError(
            f"{self._folder}: every checkpoint is damaged; remove the run's folder to begin anew"
        )

    def _read(self, step: int, like: TrainState) -> Saved | None:
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._sharding),
            like,
        )
        # Whatever a damaged file makes Orbax or TensorStore raise, of no common class, means one
        # thing here: this checkpoint cannot be used.
        try:
            restored: Any = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(shapes), check=ocp.args.JsonRestore()
                ),
            )
            if int(fingerprint(restored.state)) != restored.check["fingerprint"]:
                return None
        except Exception as error:
            log.debug("checkpoint %d: %s", step, error)
            return None
        return Saved(restored.state, restored.check["seconds"])
