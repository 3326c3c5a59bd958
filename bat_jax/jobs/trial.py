"""Tests the findings: makes the estimates and the runs, then summarizes their results."""

import dataclasses
import logging
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import memorization
from bat_jax.errors import UserError
from bat_jax.evaluation import runs as finished
from bat_jax.findings import removal
from bat_jax.findings.claims import claims
from bat_jax.findings.harmful import check_harmful
from bat_jax.findings.plan import Planned, ensemble, plan, trained, validate
from bat_jax.findings.results import read_results, seeds_of
from bat_jax.findings.summary import summarize
from bat_jax.jobs.finished import finished_results
from bat_jax.jobs.memorization import memorize
from bat_jax.jobs.train import train_and_evaluate
from bat_jax.memorization.matching import matched
from bat_jax.runtime import distributed
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.files import write_json, written_whole
from bat_jax.runtime.storage import AnyPath, absolute, as_path
from bat_jax.training.building import build, check_batch
from bat_jax.training.checkpoints import check_folder
from bat_jax.training.experiment import Experiment

log = logging.getLogger(__name__)


def findings(
    config: ConfigDict, workdir: str | AnyPath, *, workers: bool = False
) -> dict[str, Any]:
    """Makes every run of the findings in subfolders of `workdir`, and returns the results.

    The same command resumes after an interruption: it skips finished runs, and continues an
    unfinished one from its last checkpoint. Writes `runs/<arm>-seed<n>/` for every run, `excluded/`
    with the ids that some runs leave out, and `results.json`. Seeds added to finished findings at
    declared looks (`findings.looks`) are the only ones to run.

    Args:
      config: from `bat_jax.config.findings()`.
      workdir: the folder, created if it does not exist.
      workers: as for `memorize`.

    Raises:
      UserError: the config, the data, the estimates or the folder are wrong.
      NonFiniteError: a training run stopped at a non-finite number.
      Interrupted: SIGTERM or SIGINT while a run trained; its state is saved.
    """
    workdir = as_path(workdir)
    with distributed.agreed():
        check_folder(workdir)
        validate(config)
        # Report errors that affect every run before the estimates, which take hours.
        experiment = build(trained(config, "removal", "pgd_at", config.findings.seeds[0]))
        for method in config.findings.methods:
            config_of_arm = trained(config, "methods", method, config.findings.seeds[0])
            check_batch(dataclasses.replace(experiment, config=config_of_arm))
        check_harmful(config, experiment)
    with workdirs.opened(workdir):
        config = _with_estimates(config, workdir, workers=workers)
        with distributed.agreed():
            planned = prepare(config, workdir)
        path = workdir / "results.json"
        results = finished_results(path, read_results)
        if results is not None and seeds_of(results) == len(config.findings.seeds):
            log.info("%s: the findings are finished; nothing to run", workdir)
            return dict(results)
        for number, run in enumerate(planned, 1):
            log.info("run %d of %d: %s", number, len(planned), run.name)
            with distributed.agreed():
                if distributed.is_main():
                    _write_ids(run)
            train_and_evaluate(run.config, _folder(workdir, run))
            # The next run compiles its own programs.
            jax.clear_caches()
        arms: dict[str, list[finished.Run]] = {}
        for run in planned:
            arms.setdefault(run.arm, []).append(finished.read(_folder(workdir, run)))
        summary = summarize(
            config, arms, {run.arm: len(run.removed) for run in planned if run.removed is not None}
        )
        summary["claims"] = [claim._asdict() for claim in claims(summary)]
        summary["seconds"] = sum(run.results["seconds"] for runs in arms.values() for run in runs)
        with distributed.agreed():
            if distributed.is_main():
                (workdir / "report.html").unlink(missing_ok=True)  # It is drawn anew.
                if results is not None:
                    # The results of the last look stay beside the new ones.
                    path.rename(path.with_name(f"results-{seeds_of(results)}-seeds.json"))
                write_json(path, summary)
        return summary


def _with_estimates(config: ConfigDict, workdir: AnyPath, *, workers: bool) -> ConfigDict:
    """Claims the folder; returns the config with the estimates files, created if it names none."""
    members = ensemble(config)
    digests = build(members).digests()
    if config.findings.robust_estimates is not None:
        of_attacked = memorization.load(config.findings.robust_estimates)
        digests = {**digests, "robust_estimates": of_attacked.digest()}
    if config.memorization.estimates is not None:
        given = memorization.load(config.memorization.estimates)
        digests = {**digests, "estimates": given.digest()}
    _claim(workdir, config, digests)
    config = config.copy_and_resolve_references()
    if config.memorization.estimates is None:
        config.memorization.estimates = _estimated(members, workdir / "memorization", workers)
    if config.findings.harmful and config.findings.robust_estimates is None:
        with distributed.agreed():
            # Report errors that the estimates show before another ensemble, which takes hours.
            _choosing(config, _known(config))
        robust = ensemble(config, section="robust_ensemble")
        folder = workdir / "robust_memorization"
        config.findings.robust_estimates = _estimated(robust, folder, workers)
    return config


def _estimated(members: ConfigDict, folder: AnyPath, workers: bool) -> str:
    """Makes estimates in a folder, unless that is done, and returns the path of their file."""
    log.info("%s: %d members", folder.name, members.memorization.members)
    memorize(members, folder, workers=workers)
    jax.clear_caches()
    return str(absolute(folder) / "memorization.npz")


def _claim(workdir: AnyPath, config: ConfigDict, digests: dict[str, str]) -> None:
    """Claims the folder for a config, which may add seeds to those that it was made with.

    Raises:
      UserError: the folder was made with another config, or its config declares no looks at further
        seeds.
    """
    path, seeds = workdir / "config.json", list(config.findings.seeds)
    before = seeds
    with distributed.agreed():
        if path.exists():
            before = workdirs.read(path)[0].get("findings", {}).get("seeds", seeds)
    is_longer = before != seeds and seeds[: len(before)] == before
    if is_longer and not config.findings.looks:
        raise UserError(
            f"{workdir}: was made with config.findings.seeds {tuple(before)}, here {tuple(seeds)};"
            " expected the same: seeds can be added to findings whose config.findings.looks"
            " declared, before the first run, at how many seeds to look"
        )
    free = ("findings.seeds",) if is_longer else ()
    workdirs.claim(workdir, config, digests, defaults=configs.defaults_of(config), free=free)


class _Known(NamedTuple):
    """One of the runs, and what is typical and atypical there, by the estimates.

    Attributes:
      experiment: one of the runs.
      groups: the typical and the atypical images.
      atypical: the ids of the atypical training images.
    """

    experiment: Experiment
    groups: memorization.Typicality
    atypical: Int64[np.ndarray, " ids"]


def _known(config: ConfigDict) -> _Known:
    """Returns the typical and the atypical images, by the estimates that a config names.

    Raises:
      UserError: no training or no test image is atypical.
    """
    experiment = build(trained(config, "methods", "pgd_at", config.findings.seeds[0]))
    estimates, groups = experiment.estimates, experiment.typicality()
    # `build` requires estimates for tracking accuracy by typicality.
    assert estimates is not None
    assert groups is not None
    atypical = np.intersect1d(groups.train_atypical, experiment.train.ids)
    of_test = 0 if groups.test_atypical is None else len(groups.test_atypical)
    if not len(atypical) or not of_test:
        raise UserError(
            f"{estimates.source}: {len(atypical)} of the {len(experiment.train)} training images of"
            f" this config and {of_test} test images are atypical; expected some of both: lower"
            " config.memorization.threshold, or estimate with influence"
        )
    return _Known(experiment, groups, atypical)


def prepare(config: ConfigDict, workdir: AnyPath) -> list[Planned]:
    """Returns the runs to make."""
    known = _known(config)
    experiment, _, atypical = known
    harm = _harm(config, known) if config.findings.harmful else removal.NONE
    folder = absolute(workdir) / "excluded"
    planned = plan(config, experiment.train, atypical, folder, harm, experiment.excluded)
    empty = [run.arm for run in planned if run.removed is not None and not len(run.removed)]
    if empty:
        raise UserError(
            f"{empty[0]}: leaves out no image, as {len(atypical)} of the training images are"
            " atypical; expected some: raise the part in config.findings.removed or"
            " config.findings.harmful, or name none"
        )
    return planned


def _choosing(config: ConfigDict, known: _Known) -> Int64[np.ndarray, " ids"]:
    """Returns the ids of the typical test images that no run is tested on.

    Raises:
      UserError: there are none.
    """
    experiment, groups, _ = known
    # `_known` requires atypical test images, so that the others are known.
    assert groups.test_typical is not None
    choosing = np.setdiff1d(groups.test_typical, experiment.test_images().ids)
    if not len(choosing):
        raise UserError(
            f"config.evaluation.subset is {config.evaluation.subset}, all typical test images of"
            f" {experiment.dataset.name}; expected fewer with config.findings.harmful: the others"
            " choose the harmful images"
        )
    return choosing


def _harm(config: ConfigDict, known: _Known) -> removal.Harm:
    """Returns the harm of training images on typical test images that no run is tested on.

    So the images that choose what to remove are not those that measure the effect.
    """
    experiment, choosing = known.experiment, _choosing(config, known)
    estimates = matched(memorization.load(config.findings.robust_estimates), experiment.dataset)
    harm = removal.harm(estimates, choosing)
    is_trained = np.isin(harm.ids, experiment.train.ids)
    harm = removal.Harm(*(part[is_trained] for part in harm))
    log.info(
        "harm on %d typical test images: %d of %d training images harmful, %d by more than 1.96"
        " standard errors",
        len(choosing),
        np.sum(harm.values > 0),
        len(harm.ids),
        harm.certain(),
    )
    if not np.any(harm.values > 0):
        raise UserError(
            f"{estimates.source}: no training image has a harmful influence; expected some, or"
            " config.findings.harmful=()"
        )
    return harm


def _folder(workdir: AnyPath, run: Planned) -> AnyPath:
    return workdir / "runs" / run.name


def _write_ids(run: Planned) -> None:
    """Writes the ids that a run leaves out, one per line."""
    if run.excluded is None:
        return
    path = as_path(run.config.data.exclude)
    path.parent.mkdir(exist_ok=True)
    with written_whole(path) as file:
        file.write("".join(f"{number}\n" for number in run.excluded).encode())
