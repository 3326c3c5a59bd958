"""Trains an ensemble and writes memorization and influence estimates."""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from bat_jax.config import defaults_of
from bat_jax.ensemble.estimation import as_estimates, estimated, opened, sides
from bat_jax.ensemble.members import Ensemble
from bat_jax.ensemble.workers import Workers
from bat_jax.jobs.finished import finished_results
from bat_jax.memorization import aggregates, contrast
from bat_jax.memorization import estimates as estimate_files
from bat_jax.memorization.estimator import EstimatorOutput
from bat_jax.memorization.results import ROBUST_FILE, read_results
from bat_jax.memorization.store import Store
from bat_jax.runtime import backend, distributed
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.files import write_json
from bat_jax.runtime.interruption import Interruption
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment

log = logging.getLogger(__name__)


def memorize(
    config: ConfigDict, workdir: str | AnyPath, *, workers: bool = False
) -> dict[str, Any]:
    """Runs a config in a folder and returns the content of results.json.

    Members are saved after every round: an interrupted run trains the missing members, and a
    finished run trains the new ones after `memorization.members` is raised.

    Args:
      config: from a config file's `get_config()`.
      workdir: the run's folder, created if it does not exist.
      workers: whether, on CPU, to train each device's members in a separate process, which is
        faster but requires an importable main module.

    Raises:
      UserError: the config, the data or the folder are wrong.
      NonFiniteError: a member's loss is not finite.
      PeerError: another process ended.
      Interrupted: SIGTERM or SIGINT; finished rounds are saved.
    """
    workdir, settings = as_path(workdir), config.memorization
    with distributed.agreed():
        experiment = build(config)
    with workdirs.opened(workdir):
        workdirs.claim(workdir, config, experiment.digests(), defaults=defaults_of(config))
        with distributed.agreed():
            store = opened(experiment, workdir, writes=True)
        path = workdir / "results.json"
        missing = store.missing(settings.members)
        results = finished_results(path, read_results)
        files = ["memorization.npz", *([ROBUST_FILE] if settings.inputs == "both" else [])]
        has_files = all((workdir / name).exists() for name in files)
        is_finished = results is not None and results["members"] == settings.members
        if not len(missing) and is_finished and has_files:
            log.info("%s: this run is finished; nothing to train", workdir)
        else:
            _train_members(experiment, store, missing, workers=workers)
            with distributed.agreed():
                if distributed.is_main():
                    _conclude(experiment, store, workdir)
        return dict(read_results(path))


class _Written(NamedTuple):
    """Estimates that were written.

    Attributes:
      output: the estimates.
      halves: memorization from the even members, and from the odd ones.
      summary: the content of results.json.
    """

    output: EstimatorOutput
    halves: aggregates.Halves
    summary: dict[str, Any]


def _conclude(experiment: Experiment, store: Store, workdir: AnyPath) -> None:
    """Writes the estimates, then results.json, after removing results and page of fewer members."""
    settings, path = experiment.config.memorization, workdir / "results.json"
    path.unlink(missing_ok=True)
    (workdir / "report.html").unlink(missing_ok=True)
    first = _written(experiment, store, workdir / "memorization.npz", attacked=False)
    results = first.summary
    if settings.inputs == "both":
        robust = _written(experiment, store, workdir / ROBUST_FILE, attacked=True)
        both = {"clean": first, "robust": robust}
        compared = contrast.summarize(
            sides(
                experiment,
                store,
                settings.members,
                {name: (written.output, written.halves) for name, written in both.items()},
            ),
            (experiment.train.labels, experiment.dataset.test.labels),
            threshold=settings.threshold,
            influence=settings.influence,
            estimator=settings.estimator,
        )
        results = {**results, "robust": robust.summary, "clean_and_robust": compared}
    write_json(path, results)


def _written(experiment: Experiment, store: Store, path: AnyPath, *, attacked: bool) -> _Written:
    """Writes the estimates from one kind of images."""
    settings = experiment.config.memorization
    output, halves = estimated(
        experiment, store, settings.members, influence=settings.influence, attacked=attacked
    )
    estimates = as_estimates(experiment, output, attacked=attacked)
    estimate_files.save(path, estimates)
    summary = aggregates.summarize(
        estimates,
        halves,
        members=settings.members,
        threshold=settings.threshold,
        class_names=experiment.dataset.unique_names,
    )
    return _Written(output, halves[settings.members], summary)


def _train_members(
    experiment: Experiment, store: Store, missing: np.ndarray, *, workers: bool
) -> None:
    """Trains the missing members in rounds."""
    if not len(missing):
        return
    total = experiment.config.memorization.members
    began, done = time.monotonic(), total - len(missing)
    with (
        _ensemble(experiment, members=len(missing), workers=workers) as ensemble,
        Interruption().listening(f"all {total} members are saved, their estimates are not") as (
            interruption
        ),
        tqdm(
            total=total,
            initial=done,
            unit="member",
            disable=None if distributed.is_main() else True,
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}, {rate_fmt}]",
        ) as bar,
    ):
        for start in range(0, len(missing), ensemble.round_size):
            members = missing[start : start + ensemble.round_size]
            scores = ensemble.train(members, bar.update)
            with distributed.agreed():
                if distributed.is_main():
                    store.append(scores)
            if members[-1] != missing[-1] and interruption.settle():
                interruption.end(f"{done + start + len(members)} of {total} members are saved")
    log.info("%d members in %.1f s", len(missing), time.monotonic() - began)


@contextlib.contextmanager
def _ensemble(
    experiment: Experiment, *, members: int, workers: bool
) -> Iterator[Ensemble | Workers]:
    """Yields the trainer of the members, in this process or in worker processes."""
    devices = experiment.mesh.size
    is_shared = workers and backend.devices_share_threads() and jax.process_count() == 1
    with contextlib.ExitStack() as stack:
        ensemble: Ensemble | Workers
        if is_shared and min(devices, members) > 1:
            ensemble = stack.enter_context(Workers(experiment, members=members))
        else:
            ensemble = Ensemble(experiment, members=members)
        log.info(
            "%d members on %s (%d training, %d test images), %s, %s, %d device(s), %d per round",
            members,
            experiment.dataset.name,
            len(experiment.train),
            len(experiment.dataset.test),
            experiment.config.model.name,
            experiment.config.objective.name,
            devices,
            ensemble.round_size,
        )
        yield ensemble
