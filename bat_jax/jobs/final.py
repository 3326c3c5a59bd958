"""The final evaluation of a run's states on the test set: clean, PGD, AutoAttack."""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int64
from tqdm import tqdm

from bat_jax import keys, models
from bat_jax.attacks import Result, autoattack, checks
from bat_jax.data import Split
from bat_jax.data.corruptions import SEVERITIES, Corrupted
from bat_jax.data.device import DeviceSplit
from bat_jax.data.feeding import Streamed
from bat_jax.evaluation import robustbench
from bat_jax.evaluation.classify import Verdicts
from bat_jax.evaluation.groups import rows_by
from bat_jax.evaluation.records import (
    AUTOATTACK,
    CLEAN,
    GROUPS,
    WEIGHTS,
    Measure,
    OnCorrupted,
    Verdict,
    kind_of_tested,
    summarize,
    summarize_groups,
)
from bat_jax.evaluation.sampled import Sampled, SampleRecord
from bat_jax.runtime import distributed
from bat_jax.runtime.files import write_json, write_npz
from bat_jax.runtime.storage import AnyPath
from bat_jax.training.checkpoints import Saved
from bat_jax.training.experiment import Experiment

# By corruption, whether each image is classified correctly at each severity.
_BySeverity = dict[str, Bool[np.ndarray, "images severities"]]


def evaluate(
    experiment: Experiment, states: Mapping[str, Saved], workdir: AnyPath, *, seconds: float
) -> dict[str, Any]:
    """Evaluates every state, writes examples.npz and results.json, and returns the latter.

    The results are also written in RobustBench's form (`robustbench.files`).

    AutoAttack saves its verdicts to `autoattack_<step>.npz` after every batch and resumes from
    there; with several processes, each attacks its share of the images and writes its own file. A
    folder with results.json is finished.

    Args:
      experiment: the run; its config sets the evaluation.
      states: `best` and `last`, or one of them; or `weights`, from a file.
      workdir: the folder to write to.
      seconds: the seconds of training, for the record.
    """
    config, test = experiment.config, experiment.test_images()
    groups, data = _groups(experiment, test), experiment.placed(test)
    found: dict[str, Any] = {}
    examples: dict[str, np.ndarray] = {"ids": test.ids, "labels": test.labels}
    attack_seconds: dict[str, dict[str, float]] = {}
    tested: dict[int, _Tests] = {}
    for name, saved in states.items():
        step = int(saved.state.step)
        if step not in tested:
            tested[step] = _Tests(experiment, saved, test, data, workdir, name)
        tests = tested[step]
        verdicts: dict[str, Verdict] = dict(tests.verdicts)
        attacked = None
        if config.evaluation.attacks and name in (*config.evaluation.attacked, WEIGHTS):
            attacked = tests.attacked
            verdicts[AUTOATTACK.key] = attacked.verdict
        found[name] = {"step": step, "test": summarize(verdicts, groups)}
        if experiment.corrupted is not None:
            found[name]["corruptions"] = OnCorrupted.of(tests.corrupted).to_json()
            for corruption, is_correct in tests.corrupted.items():
                examples[f"{name}_corruption_{corruption}"] = is_correct
        if config.evaluation.by:
            found[name]["by"] = {
                kind: summarize_groups(verdicts, rows_by(experiment.dataset, test, kind))
                for kind in config.evaluation.by
            }
        for attack, verdict in verdicts.items():
            is_correct = verdict.stands if isinstance(verdict, Sampled) else verdict
            examples[f"{name}_{attack}"] = is_correct
        if attacked is not None:
            attack_seconds[name] = attacked.seconds
            found[name]["broken_by"] = {
                attack: int(is_broken.sum()) for attack, is_broken in attacked.broken_by.items()
            }
            for attack, is_broken in attacked.broken_by.items():
                examples[f"{name}_broken_by_{attack}"] = is_broken
            if attacked.sample is not None:
                found[name]["sample"] = attacked.sample.to_json()
                examples[f"{name}_not_run"] = attacked.sampled.not_run
    found["seconds"] = round(seconds, 1)
    if attack_seconds:
        found["attack_seconds"] = attack_seconds
    with distributed.agreed():
        if distributed.is_main():
            # Earlier results do not describe these verdicts, and their page is drawn anew.
            for name in ("results.json", "report.html"):
                (workdir / name).unlink(missing_ok=True)
            write_npz(workdir / "examples.npz", examples)
            for name, info in _for_robustbench(experiment, found).items():
                write_json(workdir / name, info)
            # Written last: results.json marks a finished run.
            write_json(workdir / "results.json", found)
    return found


@dataclasses.dataclass(frozen=True)
class _Tests:
    """The tests of one state, each made once: `best` and `last` may be the same state.

    Attributes:
      experiment: the run.
      saved: the state.
      test: the test images.
      data: the test images, placed for an evaluation.
      workdir: the folder of AutoAttack's verdicts.
      name: what the progress bar calls the state.
    """

    experiment: Experiment
    saved: Saved
    test: Split
    data: DeviceSplit | Streamed
    workdir: AnyPath
    name: str

    @functools.cached_property
    def verdicts(self) -> Verdicts:
        """Whether each image is classified correctly, clean and under each PGD."""
        evaluator = self.experiment.evaluator(tuple(self.experiment.config.evaluation.losses))
        with tqdm(
            total=len(self.test),
            unit="image",
            desc=f"testing {self.name}",
            disable=None if distributed.is_main() else True,
        ) as bar:
            return evaluator(self.saved.state.evaluated, self.data, bar.update)

    @functools.cached_property
    def attacked(self) -> "_Attacked":
        """The verdicts of AutoAttack."""
        found = _autoattack(self.experiment, self.saved, self.test, self.workdir)
        plain = Measure.pgd(self.experiment.config.evaluation.num_steps).key
        if plain in self.verdicts and distributed.is_main():
            checks.warn_if_pgd_misleads(self.verdicts[plain], found.sampled.stands)
        return found

    @functools.cached_property
    def corrupted(self) -> _BySeverity:
        """Whether each corrupted image is classified correctly."""
        corrupted = self.experiment.corrupted
        assert corrupted is not None
        return _corruptions(self.experiment, self.saved, self.test, corrupted)


def _for_robustbench(
    experiment: Experiment, results: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns the results in RobustBench's form, by the name of the file."""
    config, module = experiment.config, models.module_of(experiment.model)
    return robustbench.files(
        results,
        dataset=experiment.dataset.name,
        architecture=robustbench.architecture_text(
            config.model.name,
            depth=getattr(module, "depth", None),
            widening=getattr(module, "widening", None),
        ),
        norm=config.attack.norm,
        epsilon=config.attack.epsilon,
        attacks=tuple(config.evaluation.attacks),
        images=len(experiment.dataset.test),
        kind=_kind(experiment),
    )


def _kind(experiment: Experiment) -> str:
    """Returns what the test images are: `held-out training images of 10 of its classes`."""
    kind = kind_of_tested(experiment.config.data.tested)
    if experiment.dataset.classes is not None:
        kind += f" of {experiment.dataset.num_classes} of its classes"
    return kind


def _corruptions(
    experiment: Experiment, saved: Saved, test: Split, corrupted: Corrupted
) -> _BySeverity:
    """Returns, by corruption, whether each test image is classified correctly at each severity."""
    evaluator = experiment.evaluator(())
    bar = tqdm(
        total=len(corrupted.names) * len(SEVERITIES) * len(test),
        unit="image",
        desc="corruptions",
        disable=None if distributed.is_main() else True,
    )
    with bar:
        found = {}
        for name in corrupted.names:
            verdicts = []
            for severity in SEVERITIES:
                with distributed.agreed():
                    versions = corrupted.split(name, severity, test)
                data = experiment.placed(versions)
                verdicts.append(evaluator(saved.state.evaluated, data, bar.update)[CLEAN.key])
            found[name] = np.stack(verdicts, axis=1)
    return found


class _Attacked(NamedTuple):
    """AutoAttack's verdicts on the test images, of all processes.

    Attributes:
      sampled: the verdicts, and which images all attacks were run on.
      broken_by: which images each of the attacks broke.
      seconds: wall time of each of the attacks, on the slowest process.
      sample: the sample that the last attacks were run on; None if it is everything.
    """

    sampled: Sampled
    broken_by: dict[str, Bool[np.ndarray, " images"]]
    seconds: dict[str, float]
    sample: SampleRecord | None

    @property
    def verdict(self) -> Verdict:
        """Which images withstand AutoAttack, as far as known."""
        return self.sampled.stands if self.sample is None else self.sampled


def _autoattack(experiment: Experiment, saved: Saved, test: Split, workdir: AnyPath) -> _Attacked:
    """Runs AutoAttack on this process's share of the images, and returns all verdicts."""
    config, processes = experiment.config, jax.process_count()
    # AutoAttack shards images over devices itself, and places the variables accordingly.
    variables = jax.device_get(saved.state.evaluated)
    part = "" if processes == 1 else f"_{jax.process_index() + 1}of{processes}"
    searched = experiment.searched()
    with distributed.agreed():
        ours = test.take(np.arange(len(test))[distributed.share(len(test))])
        ids = jnp.asarray(ours.ids.astype(np.int32))
        result = autoattack(
            models.logits_fn(experiment.evaluated("autoattack"), variables),
            np.asarray(ours.images) / np.float32(255),
            ours.labels,
            keys.per_image(keys.derive(config.seed, keys.Purpose.EVALUATION), ids),
            epsilon=config.attack.epsilon,
            norm=config.attack.norm,
            attacks=tuple(config.evaluation.attacks),
            batch_size=config.evaluation.batch_size // processes,
            path=workdir / f"autoattack_{int(saved.state.step)}{part}.npz",
            keep_adversarial=False,
            tolerance=config.evaluation.tolerance,
            # Every process draws a sample from its share; their intervals together must cover 95 %.
            confidence=1 - 0.05 / processes,
            progress=sys.stderr.isatty() and distributed.is_main(),
            devices=experiment.mesh.local_devices,
            search_fn=None if searched is None else models.logits_fn(searched, variables),
        )
    return _gathered(result)


def _gathered(result: Result) -> _Attacked:
    """Returns the verdicts of all processes together."""
    robust, sample = result.robust, result.sample
    # Without a sample, all attacks were run on every image that was still robust.
    in_population, is_drawn, num_sampled = robust, robust, 0
    if sample is not None:
        in_population, is_drawn = np.zeros_like(robust), np.zeros_like(robust)
        in_population[sample.order] = True
        is_drawn[sample.order[: sample.drawn]] = True
        num_sampled = len(sample.attacks)
    part = np.full(len(robust), jax.process_index(), np.int32)
    verdicts = (robust, in_population, is_drawn, part)
    sampled = Sampled(*(distributed.concatenated(rows) for rows in verdicts))
    broken_by = {name: distributed.concatenated(b) for name, b in result.by_attack.items()}
    times = distributed.concatenated(np.array([[*result.seconds.values()]], np.float32))
    longest = (round(float(most), 1) for most in times.max(axis=0))
    seconds = dict(zip(broken_by, longest, strict=True))
    low, high = (round(end * len(robust)) for end in result.interval)
    counts = distributed.concatenated(np.array([[low, high, num_sampled]], np.int32))
    most_sampled = int(counts[:, 2].max())
    if not most_sampled:
        return _Attacked(sampled, broken_by, seconds, None)
    ends = counts[:, :2].sum(axis=0) / len(sampled.stands)
    attacks = tuple(broken_by)[-most_sampled:]
    record = SampleRecord.of(sampled, attacks, (float(ends[0]), float(ends[1])))
    return _Attacked(sampled, broken_by, seconds, record)


def _groups(experiment: Experiment, test: Split) -> dict[str, Int64[np.ndarray, " rows"]]:
    """Returns the rows of the typical and the atypical test images, where known."""
    sets = experiment.typicality()
    if sets is None:
        return {}
    groups = {}
    for name, ids in zip(GROUPS, (sets.test_typical, sets.test_atypical), strict=True):
        if ids is not None:
            rows = test.rows(ids)
            groups[name] = rows[rows >= 0]
    return groups
