"""Orbax checkpoints: written asynchronously, last and best kept, verified when read."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding

from bat_jax.errors import UserError
from bat_jax.parallel import REPLICATED
from bat_jax.runtime import distributed
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.files import reason
from bat_jax.runtime.storage import AnyPath, absolute
from bat_jax.training import scores, trouble
from bat_jax.training.layout import as_saved, from_saved, leaves
from bat_jax.training.state import TrainState, fingerprint
from bat_jax.training.trouble import (
    DAMAGED,
    FAILED,
    FOREIGN,
    WHOLE,
    CheckpointError,
    Trouble,
    classified,
    irregular,
    unreadable,
)

log = logging.getLogger(__name__)

_LISTED_DIFFERENCES = 3


class Saved(NamedTuple):
    """The content of a checkpoint.

    Attributes:
      state: the train state.
      seconds: the seconds of training up to the checkpoint.
      retries: how many times training went back from a collapse before the checkpoint.
    """

    state: TrainState
    seconds: float
    retries: int = 0


def check_folder(folder: AnyPath) -> None:
    """Raises a UserError if Orbax cannot write checkpoints below this folder."""
    # To merge files, Orbax globs the unescaped path; if nothing matches, it silently writes a
    # checkpoint that cannot be read.
    special = sorted({*"[*"} & {*str(absolute(folder))})
    if special:
        raise UserError(
            f"{folder}: its full path has {' and '.join(special)}; expected neither [ nor *, which"
            " are patterns to Orbax, in the path of a run with checkpoints: name another folder"
        )


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint holds the state, its fingerprint and, if it was scored, its validation metrics.
    Readers skip checkpoints with invalid content; a resumed run renames them to `damaged-<step>` in
    its own folder. Unreadable checkpoints are never removed.
    """

    def __init__(self, folder: AnyPath, *, keep: int | None, score: str, mesh: Mesh):
        """Opens the folder; creates it for writing.

        Args:
          folder: the folder of the checkpoints.
          keep: how many recent checkpoints to keep, besides the best; None opens the folder
            read-only, which is safe while a run writes to it.
          score: the validation metric that ranks checkpoints, larger is better.
          mesh: the devices that states are restored to, replicated.

        Raises:
          UserError: Orbax cannot write checkpoints to the folder.
        """
        self._score = score
        self._sharding = NamedSharding(mesh, REPLICATED)
        self._folder = absolute(folder)
        self._keep = keep
        if keep is not None:
            check_folder(self._folder)
        # By step. A read-only folder is read anew each time: training may write to it.
        self._scored: dict[int, scores.Scored] = {}
        self._manager = self._opened()
        if keep is not None:
            self._scored.update({step: self._score_to_keep(step) for step in self._steps()})

    def _opened(self) -> ocp.CheckpointManager:
        if self._keep is None:
            options = ocp.CheckpointManagerOptions(
                read_only=True, create=False, save_interval_steps=0, lightweight_initialize=True
            )
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=scores.Kept(self._keep, self._scored),
                # Without `best_fn` Orbax does not write the metrics.
                best_fn=lambda metrics: metrics[self._score],
                cleanup_tmp_directories=True,
                # Orbax fails on damaged metrics, so `scores` reads them instead.
                lightweight_initialize=True,
            )
        return ocp.CheckpointManager(
            self._folder, options=options, item_names=("state", "check", "metrics")
        )

    def save(
        self,
        state: TrainState,
        *,
        seconds: float,
        metrics: Mapping[str, float] | None = None,
        retries: int = 0,
    ) -> None:
        """Starts writing the state and its validation metrics asynchronously."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._scored[step] = scores.Scored.of(metrics or {}, self._score)
        check: dict[str, Any] = {"fingerprint": int(fingerprint(state)), "seconds": seconds}
        if retries:
            check["retries"] = retries
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(as_saved(state)),
                    check=ocp.args.JsonSave(check),
                ),
                metrics=dict(metrics) if metrics else None,
            )

    def latest(self, like: TrainState) -> Saved | None:
        """Returns the newest intact state, or None if there is no checkpoint.

        When opened for writing, renames the damaged checkpoints after that state, so that training
        can write them again. A checkpoint with a damaged score counts as damaged if an older one is
        intact: training scores it again.

        Args:
          like: a state with the expected shapes.

        Raises:
          UserError: every checkpoint is damaged, or one has another structure.
          CheckpointError: a system error prevented reading one.
        """

        def newest_first(steps: list[int]) -> list[int]:
            def rank(step: int) -> tuple[bool, int]:
                return not (step in self._scored and self._scored[step].is_damaged), step

            return sorted(steps, key=rank, reverse=True)

        found = self._first_whole(like, newest_first)
        if found is not None and self._keep is not None:
            self._set_aside([step for step in self._steps() if step > int(found.state.step)])
        return found

    @property
    def good(self) -> Mapping[int, float]:
        """The score of each state that has not collapsed, by step; empty unless watched."""
        return {
            step: found.score
            for step, found in self._scored.items()
            if found.is_good and found.score is not None
        }

    def has_collapsed(self, step: int) -> bool:
        """Returns whether training had collapsed at a checkpoint, according to its score."""
        return step in self._scored and self._scored[step].has_collapsed

    def back_to_good(self, like: TrainState) -> Saved:
        """Returns the last good state, and renames later checkpoints to `collapsed-<step>`.

        A good state must exist.

        Args:
          like: a state with the expected shapes.

        Raises:
          CheckpointError: a system error prevented reading it.
        """
        last = max(self.good)
        self._set_aside([step for step in self._steps() if step > last], "collapsed")
        found = self.latest(like)
        assert found is not None
        return found

    def best(self, like: TrainState) -> Saved:
        """Returns the intact state with the best score; among equal scores, the newest.

        Args:
          like: a state with the expected shapes.

        Raises:
          UserError: no checkpoint was scored, or no scored checkpoint is intact.
          CheckpointError: a system error prevented reading one.
        """

        def best_first(steps: list[int]) -> list[int]:
            scored = {step: self._read_score(step) for step in steps}
            for step in steps:
                if scored[step].is_damaged:
                    log.warning("checkpoint %s/%d: its score is damaged", self._folder, step)
            return scores.best_first(scored)

        found = self._first_whole(like, best_first)
        if found is None:
            damaged = [step for step in self._steps() if self._read_score(step).is_damaged]
            if damaged:
                raise UserError(
                    f"{self._folder}: the score of every scored checkpoint is damaged"
                    f" ({len(damaged)} found); restore {damaged[-1]}/metrics/metrics, or start over"
                    " in another folder"
                )
            raise UserError(
                f"{self._folder}: no checkpoint was scored by {self._score}; expected one, from the"
                " end of an epoch: train the run further"
            )
        return found

    def wait(self) -> None:
        """Blocks until pending writes are complete under their final names."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for pending writes and stops the writing threads."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Converts errors of Orbax and TensorStore, which share no class, to `CheckpointError`."""
        try:
            yield
        except Exception as error:
            lost = distributed.peer_lost(error)
            if lost is not None:
                raise lost from error
            raise CheckpointError(
                f"{self._folder}: a checkpoint could not be written ({reason(error)}); earlier ones"
                " are intact: fix the folder or free space, and run the same command to resume"
            ) from error

    def _steps(self) -> list[int]:
        self.wait()
        if self._keep is not None:
            return list(self._manager.all_steps())
        # A training in progress adds and removes checkpoints.
        found = ocp.path.step.standard_name_format().find_all(epath.Path(self._folder))
        return sorted(metadata.step for metadata in found)

    def _read_score(self, step: int) -> scores.Scored:
        return scores.read(self._folder / str(step), self._score)

    def _score_to_keep(self, step: int) -> scores.Scored:
        """Returns the score of a checkpoint; a damaged one for a folder that is no checkpoint."""
        is_checkpoint = (self._folder / str(step) / "state").exists()
        return self._read_score(step) if is_checkpoint else scores.DAMAGED

    def _first_whole(
        self, like: TrainState, ranked: Callable[[list[int]], list[int]]
    ) -> Saved | None:
        """Returns the first intact state of the ranked steps, or None if there are no steps."""
        steps = ranked(self._steps())
        left = list(steps)
        while left:
            step = left.pop(0)
            saved = self._read(step, like)
            if saved is not None:
                return saved
            if self._keep is None and distributed.anywhere(step not in self._steps()):
                # Removed by a concurrent training.
                steps = ranked(self._steps())
                left = list(steps)
                continue
            log.warning("checkpoint %s/%d is damaged: falling back to another", self._folder, step)
        if not steps:
            return None
        raise UserError(
            f"{self._folder}: every checkpoint is damaged ({len(steps)} found); restore one, or"
            " start over in another folder"
        )

    def _read(self, step: int, like: TrainState) -> Saved | None:
        """Returns the state of a step, or None if any process finds it damaged.

        If one process cannot read a step, none uses it: all continue from the same step.
        """
        for pause in (*trouble.PAUSES, None):
            found: Saved | Trouble | None = self._compared(step, like)
            kind = _agreed(found)
            if kind == WHOLE:
                found = self._restored(step, like)
                kind = _agreed(found)
            if kind != FAILED or pause is None:
                break
            time.sleep(pause)
        if isinstance(found, Saved) and kind == WHOLE:
            return found
        if kind == DAMAGED:
            return None
        why = found.reason if isinstance(found, Trouble) else "in another process"
        path = self._folder / str(step)
        if kind == FAILED:
            raise unreadable(path, why)
        raise UserError(
            f"{path}: holds a state of another structure (leaf: there, here): {why}; its run was"
            f" begun by {workdirs.begun_by(self._folder.parent)}, this is {workdirs.program()}: use"
            " that version, or train in another folder"
        )

    def _compared(self, step: int, like: TrainState) -> Trouble | None:
        """Returns how the structure of a stored state differs from the expected one."""
        special = irregular(self._folder / str(step))
        if special:
            return Trouble(DAMAGED, f"{special} is not a regular file")
        with_metadata = ocp.StandardCheckpointHandler()
        try:
            stored = with_metadata.metadata(epath.Path(self._folder) / str(step) / "state")
            theirs, ours = leaves(stored.tree), leaves(as_saved(like))
        except Exception as error:
            return classified(error, step)
        rows = [
            f"{name}: {theirs.get(name, 'absent')}, {ours.get(name, 'absent')}"
            for name in sorted({*theirs, *ours})
            if theirs.get(name) != ours.get(name)
        ]
        if not rows:
            return None
        more = len(rows) - _LISTED_DIFFERENCES
        listed = rows[:_LISTED_DIFFERENCES] + ([f"{more} more"] if more > 0 else [])
        return Trouble(FOREIGN, "; ".join(listed))

    def _restored(self, step: int, like: TrainState) -> Saved | Trouble:
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._sharding),
            as_saved(like),
        )
        try:
            restored: Any = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(shapes), check=ocp.args.JsonRestore()
                ),
            )
            state = from_saved(restored.state, like)
            seconds, retries = restored.check["seconds"], restored.check.get("retries", 0)
            if int(fingerprint(state)) != restored.check["fingerprint"]:
                return Trouble(DAMAGED, "its fingerprint differs")
            if not scores.is_number(seconds) or seconds < 0:
                return Trouble(DAMAGED, f"seconds is {seconds!r}")
            if not isinstance(retries, int) or retries < 0:
                return Trouble(DAMAGED, f"retries is {retries!r}")
        except Exception as error:
            return classified(error, step)
        return Saved(state, seconds, retries)

    def _set_aside(self, steps: Sequence[int], why: str = "damaged") -> None:
        """Renames checkpoints to `<why>-<step>`, so that new ones can be written in their place."""
        if not steps:
            return
        # Reopened below, because Orbax caches the steps.
        self._manager.close()
        with distributed.agreed():
            if distributed.is_main():
                for step in steps:
                    name = _free_name(self._folder.parent, f"{why}-{step}")
                    (self._folder / str(step)).rename(name)
                    log.warning("checkpoint %s/%d is now %s", self._folder, step, name)
        self._manager = self._opened()
        for step in steps:
            self._scored.pop(step, None)


def _agreed(found: Saved | Trouble | None) -> int:
    """Returns the most severe outcome among all processes."""
    return distributed.anywhere(found.kind if isinstance(found, Trouble) else WHOLE)


def _free_name(folder: Path | epath.Path, name: str) -> AnyPath:
    """Returns `name` in the folder, or `name-2` and so on if it exists."""
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path
