"""The training loop: steps, records, validation, checkpoints, and how it stops."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import jax
import numpy as np
from tqdm import tqdm

from bat_jax import parallel
from bat_jax.runtime import distributed
from bat_jax.runtime.interruption import Interruption
from bat_jax.runtime.peak import together
from bat_jax.training.checkpoints import Checkpoints, Saved
from bat_jax.training.collapse import Collapsed, Watch
from bat_jax.training.experiment import Experiment
from bat_jax.training.flops import step_flops
from bat_jax.training.metrics import Log
from bat_jax.training.scores import COLLAPSED
from bat_jax.training.state import TrainState

log = logging.getLogger(__name__)

_DAY = 24 * 3600


class NonFiniteError(RuntimeError):
    """Training stopped at a non-finite number."""


class Meter:
    """Averages the metrics of steps, and reads them from the device one step late.

    While the device computes a step, the host waits for the previous one: the device is never idle,
    and a non-finite loss is detected one step after it occurs.
    """

    def __init__(
        self, is_due: Callable[[int], bool], write: Callable[[int, dict[str, float]], None]
    ) -> None:
        """Starts an average.

        Args:
          is_due: returns whether an average ends with a step.
          write: called with the step and the averages, including `steps_per_second`.
        """
        self._is_due, self._write = is_due, write
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._begin()

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Stores the metrics of the step just dispatched and reads those of the previous step.

        Raises:
          NonFiniteError: a metric of the previous step is not finite.
        """
        previous, self._pending = self._pending, (step, metrics)
        if previous is not None:
            self._read(*previous)

    def flush(self) -> None:
        """Waits for the pending step and reads its metrics.

        Raises:
          NonFiniteError: a metric is not finite.
        """
        if self._pending is not None:
            self._read(*self._pending)
            self._pending = None

    def restart_clock(self) -> None:
        """Excludes the time since the last average from the next rate."""
        self._since = time.monotonic()

    def _begin(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0
        self.restart_clock()

    def _read(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"step {step}: not finite: {', '.join(bad)}; earlier checkpoints, if any, are"
                " intact: lower config.train.optimizer.learning_rate, or check the data"
            )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        if self._is_due(step):
            means = {name: total / self._steps for name, total in self._sums.items()}
            means["steps_per_second"] = self._steps / (time.monotonic() - self._since)
            self._begin()
            self._write(step, means)


class _Progress:
    """Records the averages of training steps.

    Attributes:
      latest: the values of the last record.
    """

    def __init__(
        self, experiment: Experiment, records: Log, flops: float, peak: float | None
    ) -> None:
        """Starts to record.

        Args:
          experiment: the training run.
          records: the log to write to.
          flops: the FLOPs of a step; NaN if they are not known.
          peak: the peak rate of the devices in FLOP/s, if it is known.
        """
        self._experiment, self._records, self._peak = experiment, records, peak
        self._image_flops = flops / experiment.config.train.batch_size
        self._has_warned = False
        self.latest: dict[str, float] = {}

    def write(self, step: int, means: dict[str, float]) -> None:
        """Records averages that end with a step, with the learning rate and the images per second.

        Warns once if the attack's gradient was not finite for some images.
        """
        experiment = self._experiment
        rate = means.pop("steps_per_second") * experiment.config.train.batch_size
        self.latest.update(
            means,
            images_per_second=rate,
            learning_rate=float(experiment.learning_rate(step - 1)),
        )
        if self._peak is not None and math.isfinite(self._image_flops):
            self.latest["utilisation"] = rate * self._image_flops / self._peak
        self._records.write(step, step / experiment.steps_per_epoch, "train", self.latest)
        lost = means.get("lost_gradient", 0.0)
        if lost > 0 and not self._has_warned:
            self._has_warned = True
            log.warning(
                "step %d: the attack's gradient was not finite for %.2g %% of the images since the"
                " last record, and their pixels stayed as they were (lost_gradient in the records):"
                " look for a division or a root of 0 in the model",
                step,
                100 * lost,
            )


def fit(
    experiment: Experiment,
    checkpoints: Checkpoints,
    records: Log,
    start: Saved,
    interruption: Interruption,
) -> Saved:
    """Trains from `start` for the configured number of steps, and returns the last state.

    Every `checkpoint.every_epochs` epochs, and at the end, the state is scored on the validation
    images and saved with its score. A run resumed from any checkpoint ends with bitwise identical
    parameters: a step is a function of the state and the config.

    Raises:
      NonFiniteError: a metric is not finite.
      Interrupted: a signal arrived; the state is saved.
      Collapsed: training collapsed, the state is saved, and the config allows another retry.
    """
    config = experiment.config
    steps_per_epoch, total_steps = experiment.steps_per_epoch, experiment.total_steps
    state, began = start.state, time.monotonic() - start.seconds
    step = int(state.step)
    if step >= total_steps:
        return start

    train_step = experiment.train_step
    feed, root = experiment.feed(), experiment.root()
    validation = experiment.placed(experiment.validation)
    evaluator = experiment.validator
    tracker = experiment.tracker()
    # The peak of a CPU is measured, so it needs idle cores.
    peak = together(list(experiment.mesh.devices.flat), config.model.dtype)
    flops = step_flops(experiment)
    if peak is not None:
        _warn_of_length(flops * (total_steps - step) / peak)
    progress = _Progress(experiment, records, flops, peak)
    watch = None
    if config.train.collapse.watch:
        watch = Watch(
            config.train.collapse,
            score=experiment.score,
            labels=experiment.validation.labels,
            highest=max(checkpoints.good.values(), default=0.0),
        )
    swa_start = config.train.swa_start_epoch
    order_of = jax.jit(
        experiment.order,
        out_shardings=jax.sharding.NamedSharding(experiment.mesh, parallel.REPLICATED),
    )

    def validate(state: TrainState) -> dict[str, float]:
        verdicts = evaluator(state.evaluated, validation)
        return {name: float(np.mean(correct)) for name, correct in verdicts.items()}

    def ends_epoch(step: int) -> bool:
        return step % steps_per_epoch == 0 or step == total_steps

    def save_and_end(step: int) -> NoReturn:
        records.flush()
        checkpoints.save(state, seconds=time.monotonic() - began, retries=start.retries)
        checkpoints.wait()
        interruption.end(f"step {step} of {total_steps} is saved")

    meter = Meter(
        lambda step: step % config.train.log_every == 0 or ends_epoch(step), progress.write
    )
    with tqdm(
        total=total_steps,
        initial=step,
        unit="step",
        disable=None if distributed.is_main() else True,
        dynamic_ncols=True,
    ) as bar:
        while step < total_steps:
            epoch = step // steps_per_epoch
            order = order_of(root, np.int32(epoch))
            for data in feed.batches(order, step % steps_per_epoch):
                state, metrics = train_step(state, data, order, root)
                step += 1
                meter.push(step, metrics)
                bar.update()
                if ends_epoch(step):
                    break
                if interruption.poll():
                    # The pending metrics may be non-finite; such a state must not be saved.
                    meter.flush()
                    save_and_end(step)
            meter.flush()
            if swa_start is not None and epoch >= swa_start and step % steps_per_epoch == 0:
                state = experiment.refreshed(state, data, order, root)
            bar.set_postfix(loss=f"{progress.latest['loss']:.3f}", refresh=False)
            if (epoch + 1) % config.checkpoint.every_epochs == 0 or step == total_steps:
                scores = validate(state)
                if watch is not None:
                    scores = watch.flagged(step, scores)
                records.write(step, step / steps_per_epoch, "validation", scores)
                if tracker is not None:
                    for split, accuracies in tracker(state.evaluated).items():
                        records.write(step, step / steps_per_epoch, split, accuracies)
                records.flush()
                seconds = time.monotonic() - began
                checkpoints.save(state, seconds=seconds, metrics=scores, retries=start.retries)
                _report(step, experiment, progress.latest, scores)
                if scores.get(COLLAPSED) and start.retries < config.train.collapse.retries:
                    checkpoints.wait()
                    raise Collapsed(step, seconds)
                meter.restart_clock()
            if step < total_steps and interruption.poll():
                save_and_end(step)
    checkpoints.wait()
    return Saved(state, time.monotonic() - began, start.retries)


def _warn_of_length(seconds: float) -> None:
    """Warns if training takes more than a day even at peak utilisation."""
    if seconds > _DAY:
        log.warning(
            "training takes at least %.3g days, even at the devices' peak rate", seconds / _DAY
        )


def _report(
    step: int,
    experiment: Experiment,
    means: Mapping[str, float],
    scores: Mapping[str, float],
) -> None:
    log.info(
        "epoch %g  step %d/%d  loss %.4f  train %.1f %%  validation (n = %d): %s  %d images/s%s",
        round(step / experiment.steps_per_epoch, 2),
        step,
        experiment.total_steps,
        means["loss"],
        100 * means["accuracy"],
        len(experiment.validation),
        ", ".join(f"{n} {100 * score:.1f} %" for n, score in scores.items() if n != COLLAPSED),
        means["images_per_second"],
        f", {100 * means['utilisation']:.0f} % of peak" if "utilisation" in means else "",
    )
