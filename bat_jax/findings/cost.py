"""Predicts what the findings cost and can detect, without running them."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bat_jax import methods
from bat_jax.attacks import sampling, versions
from bat_jax.attacks.sampling import Sample
from bat_jax.ensemble.cost import describe_ensemble, member_cost
from bat_jax.evaluation.records import CLEAN, STATES, Measure, kind_of_tested
from bat_jax.findings import contrasts, looks, power
from bat_jax.findings import plan as plans
from bat_jax.findings.harmful import check_harmful
from bat_jax.findings.removal import removals
from bat_jax.findings.results import read_results
from bat_jax.runtime import backend
from bat_jax.runtime.plain import plain
from bat_jax.runtime.storage import as_path
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment
from bat_jax.training.flops import forward_flops, step_flops
from bat_jax.training.state import number_of_parameters

# A larger training step is not timed: it is meant for another machine.
_LARGEST_TIMED = 2e11
_TIMINGS = 5


def describe_findings(config: ConfigDict) -> str:
    """Returns the runs of the findings, their cost, and the differences that they can detect.

    FLOPs count forward passes; the time follows from that of a training step of `pgd_at` here. The
    removal of images is ignored. AutoAttack is given at its most, where it breaks no image and
    draws no sample, and for the expected robust accuracy.

    Raises:
      UserError: the config, the data, the estimates or the pilot are wrong.
    """
    plans.validate(config)
    pilot = None if config.findings.pilot is None else read_results(as_path(config.findings.pilot))
    lines = [json.dumps(plain(config), indent=2)]
    base = plans.trained(config, "methods", "pgd_at", config.findings.seeds[0])
    if base.memorization.estimates is None:
        # Estimates are made first; their values do not change the cost.
        base.evaluation.track.images = 0
    experiment = build(base)
    check_harmful(config, experiment)
    # Removals are ignored, so that no image need be known as atypical.
    runs = plans.plan(config, experiment.train, np.zeros(0, np.int64), Path())
    forward, rate = forward_flops(experiment), _rate(experiment)
    standing = expected_robust(config, pilot)
    total, attacked, expected, members = 0.0, 0.0, 0.0, 0.0
    arms: dict[str, float] = {}
    for run in runs:
        passes = _training_passes(run.config, experiment) + _evaluation_passes(
            run.config, experiment
        )
        arms[run.arm] = passes * forward
        total += passes * forward
        attacked += _autoattack_passes(run.config, experiment) * forward
        expected += _autoattack_passes(run.config, experiment, standing) * forward
    lines += [
        f"parameters: {number_of_parameters(jax.eval_shape(experiment.initial_state).variables):,}",
        f"forward pass: {forward / 1e9:.4g} GFLOP per image",
        f"runs: {len(runs)}, {len(config.findings.seeds)} seed(s) of {len(arms)}:",
        *(f"  {arm}: {flops / 1e12:,.4g} TFLOP per seed" for arm, flops in arms.items()),
        f"training, validation, PGD: {total / 1e12:,.4g} TFLOP{_minutes(total, rate)}",
    ]
    if attacked:
        lines.append(f"AutoAttack: at most {attacked / 1e12:,.4g} TFLOP{_minutes(attacked, rate)}")
        if expected < attacked:
            lines.append(
                f"  at the expected robust accuracy of {100 * standing:.0f} %:"
                f" {expected / 1e12:,.4g} TFLOP{_minutes(expected, rate)}"
            )
    made = {
        "ensemble": config.memorization.estimates is None,
        "robust_ensemble": bool(
            config.findings.harmful and config.findings.robust_estimates is None
        ),
    }
    for section, is_made in made.items():
        if is_made:
            ensemble = plans.ensemble(config, section=section)
            cost = _ensemble_flops(ensemble)
            members += cost
            described = describe_ensemble(ensemble)
            lines.append(
                f"findings.{section}, in addition{_minutes(cost, rate)}:\n"
                + described[described.index("parameters of") :]
            )
    whole = total + expected + members
    lines.append(
        f"in all: {whole / 1e15:,.4g} PFLOP{_minutes(whole, rate)},"
        f" {whole / 1e14 / 3600:,.3g} device-hours at 100 TFLOP/s"
    )
    return "\n".join([*lines, *_detectable(config, experiment, pilot)])


def _rate(experiment: Experiment) -> float | None:
    """Returns the FLOP/s of a training step here, the best of a few; None if large or not counted.

    On a CPU it is FLOPs per second of processor time, times the cores: other processes slow a step
    down, and hardly change its processor time.
    """
    flops = step_flops(experiment)
    if not flops <= _LARGEST_TIMED:  # NaN is no count.
        return None
    is_cpu = jax.default_backend() == "cpu"
    clock = time.process_time if is_cpu else time.monotonic
    cores = len(backend.cores()) if is_cpu else 1
    state, root = experiment.initial_state(), experiment.root()
    order = experiment.order(experiment.config.seed, 0)
    batches = experiment.feed().batches(order, 0)
    seconds = []
    for _, data in zip(range(_TIMINGS + 1), batches, strict=False):
        began = clock()
        state, _ = experiment.train_step(state, data, order, root)
        jax.block_until_ready(state)
        seconds.append(clock() - began)
    # The first one compiles.
    return flops * cores / min(seconds[1:] or seconds)


def _minutes(flops: float, rate: float | None) -> str:
    return "" if rate is None else f", {flops / rate / 60:,.0f} minutes here"


def expected_robust(config: ConfigDict, pilot: Mapping[str, Any] | None) -> float:
    """Returns the fraction of test images that attacks are expected to leave.

    Args:
      config: of the findings; its `expected_robust` comes first.
      pilot: the results of finished findings, whose methods' mean robust accuracy in the best state
        comes second; without them it is 1.
    """
    if config.findings.expected_robust is not None:
        return float(config.findings.expected_robust)
    if pilot is None:
        return 1.0
    key = pilot["attacks"]["methods"]["best"]
    failed = power.failed_arms(pilot)
    arms = {"bat", *(row["against"] for row in pilot["methods"])} - failed
    found = [pilot["accuracies"][arm]["best"]["all"][key]["mean"] for arm in sorted(arms)]
    return float(np.mean(found)) if found else 1.0


def _ensemble_flops(config: ConfigDict) -> float:
    """Returns the FLOPs of training and scoring all members of an ensemble."""
    cost = member_cost(build(config))
    return float(config.memorization.members * (cost.training + cost.scoring))


def _detectable(
    config: ConfigDict, experiment: Experiment, pilot: Mapping[str, Any] | None
) -> list[str]:
    """Returns a line on each planned contrast and the difference that it can detect."""
    declared = tuple(config.findings.looks)
    seeds, level = len(config.findings.seeds), looks.level(declared)
    last = ""
    if declared:
        seeds, last = declared[-1], f" at the last of {len(declared)} looks"
    known = [] if pilot is None else contrasts.measured(pilot)
    failed = set() if pilot is None else power.failed_arms(pilot)
    lines = [
        f"detectable differences{last}: paired t test over {seeds} seed(s), two-sided"
        f" {100 * level:g} %, power {100 * power.POWER:g} %"
    ]
    for contrast in _contrasts(config, experiment):
        spread = power.from_pilot(contrast, known, failed=failed)
        found = power.detectable(spread.deviation, seeds, level=level)
        lines.append(
            f"  {contrast.title}, n = {contrast.images:,}: "
            + ("none with one seed" if found is None else f"{100 * found:.1f} points")
            + f" (spread {100 * spread.deviation:.1f}, {spread.source})"
        )
    return lines


def _contrasts(config: ConfigDict, experiment: Experiment) -> list[contrasts.Contrast]:
    """Returns the contrasts of the planned runs, without values.

    Without estimates, the test images count as typical, and as many are taken to be atypical as
    are tracked at most.

    Args:
      config: of the findings.
      experiment: a run of `pgd_at`.
    """
    attacks = plans.attacks(config)
    tested = _tested(config, experiment)
    kind = kind_of_tested(config.data.tested)
    typical, atypical = tested, min(tested, config.evaluation.track.images)
    groups = experiment.typicality()
    if groups is not None and groups.test_typical is not None and groups.test_atypical is not None:
        atypical = min(len(groups.test_atypical), config.evaluation.track.images)
        rows = experiment.test_images().rows(groups.test_typical)
        typical = int(np.sum(rows >= 0))
    tracked = Measure.parse(attacks["tracked"]).title
    found = [
        contrasts.gain(measure, tested=kind, images=atypical)
        for measure in (CLEAN.title, contrasts.beyond(tracked))
    ]
    for removal in removals(config.findings):
        for state in STATES:
            title = Measure.parse(attacks["removal"][state]).title
            found.append(contrasts.removal(removal, state, title, tested=kind, images=typical))
    for state in STATES:
        title = Measure.parse(attacks["methods"][state]).title
        for ours, other in plans.comparisons(config):
            if methods.has_attack(plans.objective(config, other).name):
                found += [
                    contrasts.comparison(other, state, measure, ours=ours, images=tested)
                    for measure in (CLEAN.title, title)
                ]
    return found


def _training_passes(config: ConfigDict, experiment: Experiment) -> float:
    """Returns the forward passes per image of training and validation."""
    method = methods.create(config.objective, methods.Setup(num_steps=config.attack.num_steps))
    steps = experiment.total_steps * config.train.batch_size
    settings = config.evaluation
    watched = 3 if config.train.collapse.watch else 0
    scored = len(experiment.validation) * (2 + 2 * settings.num_steps + watched)
    followed = 4 * settings.track.images * (2 + 2 * settings.track.num_steps)
    checkpoints = steps / len(experiment.train) / config.checkpoint.every_epochs
    return steps * methods.step_passes(method, config) + (scored + followed) * checkpoints


def _evaluation_passes(config: ConfigDict, experiment: Experiment) -> int:
    """Returns the forward passes to test `best` and `last`, clean and under PGD."""
    each = 1 + len(config.evaluation.losses) * (1 + 2 * config.evaluation.num_steps)
    return 2 * _tested(config, experiment) * each


def _autoattack_passes(
    config: ConfigDict, experiment: Experiment, standing: float | None = None
) -> float:
    """Returns the forward passes of AutoAttack.

    Args:
      config: of a run.
      experiment: a run of the same data and model.
      standing: the fraction of images that withstand every attack, none of which the attacks on a
        sample break; None for the most there can be: all withstand, and all are drawn.
    """
    attacks, tested = config.evaluation.attacks, _tested(config, experiment)
    images = drawn = float(tested)
    num_whole = len(attacks)
    if standing is not None:
        images = drawn = standing * tested
        if config.evaluation.tolerance is not None:
            num_whole = sampling.num_whole(attacks)
            population = Sample.of(attacks[num_whole:], np.arange(round(images)), 0.95)
            drawn = min(population.needed(config.evaluation.tolerance * tested), images)
    counts = [images] * num_whole + [drawn] * (len(attacks) - num_whole)
    classes = experiment.dataset.num_classes
    passes = sum(
        count * _attack_passes(attack, classes)
        for attack, count in zip(attacks, counts, strict=True)
    )
    return float(len(config.evaluation.attacked) * passes)


def _attack_passes(name: str, classes: int) -> int:
    """Returns the forward passes of an attack on an image that withstands it."""
    targets = min(versions.NUM_TARGETS, classes - 1) if name in versions.TARGETED else 1
    passes = 1
    if name in versions.WHITE_BOX:
        # An iterate and its gradient; FAB evaluates the next one too.
        passes += 2 if name == "fab-t" else 1
    return versions.create(name, 1.0, "linf").num_steps * targets * passes


def _tested(config: ConfigDict, experiment: Experiment) -> int:
    images = len(experiment.dataset.test)
    return min(config.evaluation.subset or images, images)
