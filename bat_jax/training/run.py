"""A whole run: train or resume, then evaluate the best and the last state on the test set."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from bat_jax import memorization
from bat_jax import workdir as workdirs
from bat_jax.data.device import to_devices
from bat_jax.evaluation import results
from bat_jax.files import write_json, write_npz
from bat_jax.interruption import Interruption
from bat_jax.memorization import estimates as estimate_files
from bat_jax.training.checkpoints import Checkpoints, Saved
from bat_jax.training.experiment import Experiment, build
from bat_jax.training.loop import fit
from bat_jax.training.metrics import MetricsLog
from bat_jax.training.state import number_of_parameters

log = logging.getLogger(__name__)


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Runs a config in a folder and returns what results.json then holds.

    A folder with an unfinished run of the same config resumes it; one with a finished run returns
    its results.

    Args:
      config: from a config file's `get_config()`.
      workdir: the run's folder, made if it does not exist.

    Raises:
      UserError: the config, the data, the estimates or the folder are wrong.
      NonFiniteError: training met a number that is not finite.
      Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    workdir = Path(workdir)
    experiment = build(config)
    with workdirs.opened(workdir):
        dataset = experiment.dataset
        workdirs.claim(
            workdir,
            config,
            {"train": dataset.train.digest(), "test": dataset.test.digest()},
        )
        path = workdir / "results.json"
        if path.exists():
            log.info("%s: this run is finished; nothing to train", workdir)
            return json.loads(path.read_bytes())
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
        state = experiment.initial_state()
        log.info("%s parameters", f"{number_of_parameters(state.variables):,}")
        shapes = jax.eval_shape(lambda: state)
        checkpoints = Checkpoints(
            workdir / "checkpoints",
            keep=config.checkpoint.keep,
            score=experiment.score,
            mesh=experiment.mesh,
        )
        try:
            start = checkpoints.latest(shapes)
            if start is None:
                start = Saved(state, 0.0)
            else:
                log.info("resuming from step %d", int(start.state.step))
            records = MetricsLog(workdir, resumed_step=int(start.state.step))
            try:
                with Interruption().listening() as interruption:
                    last = fit(experiment, checkpoints, records, start, interruption)
            finally:
                records.close()
            best = checkpoints.best(shapes)
            return _evaluate(experiment, workdir, best, last)
        finally:
            checkpoints.close()


def _evaluate(experiment: Experiment, workdir: Path, best: Saved, last: Saved) -> dict[str, Any]:
    """Evaluates both states on the whole test set and writes examples.npz and results.json."""
    config, test = experiment.config, experiment.dataset.test
    evaluator = experiment.evaluator(tuple(config.evaluation.losses))
    data = to_devices(test, experiment.mesh)
    groups = {}
    if experiment.estimates is not None:
        sets = memorization.split(experiment.estimates, config.memorization.threshold)
        for name, ids in (("typical", sets.test_typical), ("atypical", sets.test_atypical)):
            if ids is not None:
                groups[name] = estimate_files.find(test, ids)

    found: dict[str, Any] = {}
    examples = {"ids": test.ids, "labels": test.labels}
    verdicts: dict[int, Any] = {}
    for name, saved in (("best", best), ("last", last)):
        step = int(saved.state.step)
        if step not in verdicts:
            with tqdm(total=len(test), unit="image", desc=f"testing {name}", disable=None) as bar:
                verdicts[step] = evaluator(saved.state.evaluated, data, bar.update)
        found[name] = {"step": step, "test": results.summarize(verdicts[step], groups)}
        for attack, correct in verdicts[step].items():
            examples[f"{name}_{attack}"] = np.asarray(correct)
    found["seconds"] = round(last.seconds, 1)
    write_npz(workdir / "examples.npz", examples)
    # Last of all: a folder with results.json is a finished run.
    write_json(workdir / "results.json", found)
    return found
