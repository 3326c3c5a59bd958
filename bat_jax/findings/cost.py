"""Predicts the cost of the findings without running them."""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bat_jax import methods
from bat_jax.ensemble.cost import describe_ensemble
from bat_jax.findings import plan as plans
from bat_jax.runtime.plain import plain
from bat_jax.training.experiment import Experiment, build
from bat_jax.training.flops import forward_flops
from bat_jax.training.state import number_of_parameters


def describe_findings(config: ConfigDict) -> str:
    """Returns the runs of the findings, their FLOPs and their minimum time.

    FLOPs count forward passes; the time follows from the rate of this machine's forward pass. The
    removal of images is ignored, and AutoAttack is assumed to break no image.

    Raises:
      UserError: the config, the data or the estimates are wrong.
    """
    plans.validate(config)
    lines = [json.dumps(plain(config), indent=2)]
    base = plans.trained(config, "methods", "pgd_at", config.findings.seeds[0])
    if base.memorization.estimates is None:
        # Estimates are made first; their values do not change the cost.
        base.evaluation.track.images = 0
    experiment = build(base)
    nobody = np.zeros(0, np.int64)
    runs = plans.plan(config, experiment.train, nobody, Path())
    forward, rate = forward_flops(experiment), _forward_rate(experiment)
    total, attacked = 0.0, 0.0
    arms: dict[str, float] = {}
    for run in runs:
        passes = _training_passes(run.config, experiment) + _evaluation_passes(
            run.config, experiment
        )
        arms[run.arm] = passes * forward
        total += passes * forward
        attacked += _autoattack_passes(run.config, experiment) * forward
    lines += [
        f"parameters: {number_of_parameters(jax.eval_shape(experiment.initial_state).variables):,}",
        f"forward pass: {forward / 1e9:.4g} GFLOP per image,"
        f" {rate / 1e9:,.4g} GFLOP/s in a batch on {jax.devices()[0].device_kind}",
        f"runs: {len(runs)}, {len(config.findings.seeds)} seed(s) of {len(arms)}:",
        *(f"  {arm}: {flops / 1e12:,.4g} TFLOP per seed" for arm, flops in arms.items()),
        f"training, validation, PGD: {total / 1e12:,.4g} TFLOP,"
        f" at least {total / rate / 3600:,.3g} hours here",
    ]
    if attacked:
        lines.append(
            f"AutoAttack: at most {attacked / 1e12:,.4g} TFLOP, {attacked / rate / 3600:,.3g} hours"
        )
    if config.memorization.estimates is None:
        members = describe_ensemble(plans.ensemble(config))
        lines.append(
            "memorization estimates, in addition:\n" + members[members.index("parameters of") :]
        )
    return "\n".join(lines)


def _training_passes(config: ConfigDict, experiment: Experiment) -> float:
    """Returns the forward passes per image of training and validation."""
    method = methods.create(config.objective, methods.Setup(num_steps=config.attack.num_steps))
    steps = experiment.total_steps * config.train.batch_size
    settings = config.evaluation
    scored = len(experiment.validation) * (2 + 2 * settings.num_steps)
    followed = 4 * settings.track.images * (2 + 2 * settings.track.num_steps)
    checkpoints = steps / len(experiment.train) / config.checkpoint.every_epochs
    return steps * methods.step_passes(method, config) + (scored + followed) * checkpoints


def _evaluation_passes(config: ConfigDict, experiment: Experiment) -> int:
    """Returns the forward passes to test `best` and `last`, clean and under PGD."""
    each = 1 + len(config.evaluation.losses) * (1 + 2 * config.evaluation.num_steps)
    return 2 * _tested(config, experiment) * each


def _autoattack_passes(config: ConfigDict, experiment: Experiment) -> int:
    """Returns the forward passes of AutoAttack if every image withstands it."""
    targets = min(9, experiment.dataset.num_classes - 1)
    each = {
        "apgd-ce": 200,
        "apgd-dlr": 200,
        "apgd-t": 200 * targets,
        "fab-t": 300 * targets,
        "square": 5000,
    }
    passes = sum(each[attack] for attack in config.evaluation.attacks)
    return len(config.evaluation.attacked) * _tested(config, experiment) * passes


def _tested(config: ConfigDict, experiment: Experiment) -> int:
    images = len(experiment.dataset.test)
    return min(config.evaluation.subset or images, images)


def _forward_rate(experiment: Experiment) -> float:
    """Returns the FLOP/s of a batch's forward pass, the best of three timings."""
    images = jnp.zeros((experiment.config.train.batch_size, *experiment.dataset.image_shape))
    variables = experiment.initial_state().variables
    forward = jax.jit(lambda variables, images: experiment.model.apply(variables, images))
    jax.block_until_ready(forward(variables, images))
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        jax.block_until_ready(forward(variables, images))
        seconds.append(time.monotonic() - began)
    return forward_flops(experiment) * len(images) / min(seconds)
