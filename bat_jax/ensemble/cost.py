"""Predicts the cost of an ensemble without training it."""

import json
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from bat_jax import methods
from bat_jax.ensemble.members import subset_size
from bat_jax.runtime.plain import plain
from bat_jax.training import cautions
from bat_jax.training.building import build, planned
from bat_jax.training.experiment import Experiment
from bat_jax.training.flops import forward_flops
from bat_jax.training.state import number_of_parameters


def describe_ensemble(config: ConfigDict) -> str:
    """Returns the resolved config of an ensemble and the FLOPs of training and scoring it.

    Raises:
      UserError: the config or the data are wrong.
    """
    experiment = build(config)
    settings = config.memorization
    cautions.warn_of_plan(planned(experiment, examples=subset_size(experiment)))
    cost = member_cost(experiment)
    state = jax.eval_shape(experiment.initial_state)
    total = settings.members * (cost.training + cost.scoring)
    return "\n".join(
        [
            json.dumps(plain(config), indent=2),
            f"parameters of a member: {number_of_parameters(state.variables):,}",
            f"programs: {experiment.programs}",
            f"a member: {cost.steps:,} steps of {config.train.batch_size} images"
            f" ({cost.passes} forward passes each), {cost.training / 1e12:,.4g} TFLOP;"
            f" scoring {cost.images:,} images, {cost.scoring / 1e12:,.4g} TFLOP",
            f"all {settings.members:,} members: {total / 1e15:,.4g} PFLOP, that is"
            f" {total / 1e14 / 3600:,.3g} device-hours at 100 TFLOP/s",
        ]
    )


class MemberCost(NamedTuple):
    """The cost of one member of an ensemble.

    Attributes:
      steps: of its training.
      passes: the cost of a step in forward passes of the batch.
      training: FLOPs of all steps.
      images: how many images it is scored on.
      scoring: FLOPs of scoring those images.
    """

    steps: int
    passes: int
    training: float
    images: int
    scoring: float


def member_cost(experiment: Experiment) -> MemberCost:
    """Returns the cost of training and scoring one member of an ensemble."""
    config, forward = experiment.config, forward_flops(experiment)
    steps = planned(experiment, examples=subset_size(experiment)).total_steps
    passes = methods.step_passes(experiment.method, config)
    images = len(experiment.train) + len(experiment.dataset.test)
    # A step of PGD passes forward and backward.
    attacked = 1 + 2 * config.evaluation.num_steps
    scored = {"clean": 1, "adversarial": attacked, "both": 1 + attacked}
    return MemberCost(
        steps=steps,
        passes=passes,
        training=forward * config.train.batch_size * passes * steps,
        images=images,
        scoring=forward * images * scored[config.memorization.inputs],
    )
