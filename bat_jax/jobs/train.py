"""Trains or resumes a run, then evaluates the best and the last state on the test set."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from bat_jax.config import defaults_of
from bat_jax.data import Dataset
from bat_jax.evaluation.runs import read_results, scan_records
from bat_jax.jobs.final import evaluate
from bat_jax.jobs.finished import finished_results
from bat_jax.memorization import proxies
from bat_jax.models import Classifier
from bat_jax.models.described import described
from bat_jax.runtime import distributed
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.interruption import Interruption
from bat_jax.runtime.plain import plain
from bat_jax.runtime.storage import AnyPath, as_path, is_remote
from bat_jax.training.building import build, check_batch, check_memory_fits
from bat_jax.training.callbacks import Callback, Observed, running
from bat_jax.training.checkpoints import Checkpoints, Saved, check_folder
from bat_jax.training.collapse import Collapsed, Retry, gentler, remembered
from bat_jax.training.experiment import Experiment
from bat_jax.training.loop import fit
from bat_jax.training.metrics import Log, MetricsLog, NoLog, UploadedLog
from bat_jax.training.state import number_of_parameters

log = logging.getLogger(__name__)

_COLLAPSE = "collapse"  # The split of the records of going back.


def train_and_evaluate(config: ConfigDict, workdir: str | AnyPath) -> dict[str, Any]:
    """Runs a config in a folder and returns the content of results.json.

    Resumes an unfinished run of the same config; returns the results of a finished one.

    Args:
      config: from a config file's `get_config()`.
      workdir: the run's folder, created if it does not exist.

    Raises:
      UserError: the config, the data, the estimates or the folder are wrong.
      NonFiniteError: training stopped at a non-finite number.
      Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    workdir = as_path(workdir)
    return run(prepared(config, workdir), workdir)


def prepared(
    config: ConfigDict,
    workdir: AnyPath,
    *,
    model: Classifier | None = None,
    dataset: Dataset | None = None,
) -> Experiment:
    """Returns the experiment of a run, checked in all processes before the folder is touched.

    Args:
      config: the whole config.
      workdir: the run's folder.
      model: replaces the model that the config names.
      dataset: replaces the data set that the config names.

    Raises:
      UserError: the config, the model, the data, the estimates or the folder's name are wrong.
    """
    with distributed.agreed():
        check_folder(workdir)
        experiment = build(config, model=model, dataset=dataset)
        check_batch(experiment)
        check_memory_fits(experiment)
    return experiment


def run(
    experiment: Experiment, workdir: AnyPath, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Trains and evaluates an experiment in a folder: `train_and_evaluate` after its checks.

    Args:
      experiment: from `prepared`.
      workdir: the run's folder.
      callbacks: called unless the run is finished already.
    """
    config = experiment.config
    if not distributed.is_main():
        callbacks = ()
    with workdirs.opened(workdir):
        dataset = experiment.dataset
        workdirs.claim(
            workdir,
            config,
            experiment.digests(),
            defaults=defaults_of(config),
            model=_described(experiment),
        )
        results = finished_results(workdir / "results.json", read_results)
        if results is not None:
            log.info("%s: this run is finished; nothing to train", workdir)
            return dict(results)
        log.info(
            "%s on %s (%d training, %d validation, %d test images), %s, %d device(s)",
            config.objective.name,
            dataset.name,
            len(experiment.train),
            len(experiment.validation),
            len(dataset.test),
            config.model.name,
            experiment.mesh.size,
        )
        shapes = jax.eval_shape(experiment.initial_state)
        log.info("%s parameters", f"{number_of_parameters(shapes.variables):,}")
        checkpoints = Checkpoints(
            workdir / "checkpoints",
            keep=config.checkpoint.keep,
            score=experiment.score,
            mesh=experiment.mesh,
        )
        try:
            start = checkpoints.latest(shapes)
            if start is None:
                start = Saved(experiment.initial_state(), 0.0)
            else:
                log.info("resuming from step %d", int(start.state.step))
            trained = "the training is finished and saved, but the evaluation is not"
            with running(callbacks, plain(config), int(start.state.step)) as ended:
                with Interruption().listening(trained) as interruption:
                    last = _trained(
                        experiment, checkpoints, start, interruption, workdir, callbacks
                    )
                _save_history(experiment, last, workdir)
                states = {"best": checkpoints.best(shapes), "last": last}
                found = evaluate(experiment, states, workdir, seconds=last.seconds)
                ended(found)
            return found
        finally:
            checkpoints.close()


def _trained(
    experiment: Experiment,
    checkpoints: Checkpoints,
    start: Saved,
    interruption: Interruption,
    workdir: AnyPath,
    callbacks: Sequence[Callback],
) -> Saved:
    """Trains from `start` and returns the last state; goes back after collapses if configured.

    Going back drops the records after the last good state and adds one with the split `collapse`.
    """
    allowed = experiment.config.train.collapse.retries

    def back(retry: Retry) -> Saved:
        retry.remember(workdir)
        good = checkpoints.back_to_good(jax.eval_shape(experiment.initial_state))
        return retry.of(good)

    step, retry = int(start.state.step), remembered(workdir, start)
    if retry is not None:
        # The run was stopped after it went back, before its next checkpoint.
        start = retry.of(start)
    elif start.retries < allowed and checkpoints.has_collapsed(step):
        # The run was stopped after a collapse, before it went back.
        retry = Retry(step, start.retries + 1, start.seconds)
        start = back(retry)
    while True:
        step = int(start.state.step)
        attempt = gentler(experiment, start.retries)
        collapse = {} if retry is None else _record_of(retry, attempt)
        is_recorded = not collapse or _is_recorded(workdir, step, collapse)
        records = _log(workdir, step)
        if callbacks:
            records = Observed(records, callbacks)
        try:
            if collapse:
                size = collapse["step_size"]
                log.warning("going back to step %d with an attack step of %.4g", step, size)
            if not is_recorded:
                records.write(step, step / experiment.steps_per_epoch, _COLLAPSE, collapse)
            return fit(attempt, checkpoints, records, start, interruption)
        except Collapsed as found:
            retry = Retry(found.step, start.retries + 1, found.seconds)
            start = back(retry)
        finally:
            records.close()


def _described(experiment: Experiment) -> dict[str, Any] | None:
    """Returns the description of a model from outside, of which a config names only the class."""
    if ":" not in experiment.config.model.name:
        return None
    return described(experiment.model, jax.eval_shape(experiment.initial_state).variables)


def _record_of(retry: Retry, attempt: Experiment) -> dict[str, float]:
    size = attempt.config.attack.step_size
    return {"collapsed_step": retry.collapsed_step, "step_size": size}


def _is_recorded(workdir: AnyPath, step: int, collapse: Mapping[str, float]) -> bool:
    """Returns whether a stopped run has recorded already that it goes back to a step."""
    path = workdir / "metrics.jsonl"
    with distributed.agreed():
        if not distributed.is_main() or not path.exists():
            return False
        values = {"step": step, "split": _COLLAPSE, **collapse}
        return any(values.items() <= record.items() for _, record in scan_records(path)[0])


def _save_history(experiment: Experiment, last: Saved, workdir: AnyPath) -> None:
    """Writes the training history of every example."""
    history = jax.device_get(last.state.memory["history"])
    with distributed.agreed():
        if distributed.is_main():
            proxies.save(
                workdir / proxies.FILE,
                experiment.train,
                history,
                dataset=experiment.dataset.name,
            )


def _log(workdir: AnyPath, step: int) -> Log:
    """Returns the log, continued after `step`; only the main process writes records."""
    with distributed.agreed():
        if not distributed.is_main():
            return NoLog()
        kind = UploadedLog if is_remote(workdir) else MetricsLog
        return kind(workdir, resumed_step=step)
