"""What a run would cost, without running it."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax.training.experiment import Experiment, build, check_batch, planned
from bat_jax.training.state import number_of_parameters


def describe(config: ConfigDict) -> str:
    """Returns the resolved config, parameter count, FLOPs and memory of a training step.

    Raises:
      UserError: the config, the data or the estimates are wrong.
    """
    experiment = build(config)
    check_batch(experiment)
    state, root = jax.eval_shape(experiment.initial_state), jax.eval_shape(experiment.root)
    order = jax.ShapeDtypeStruct((experiment.steps_per_epoch, config.train.batch_size), jnp.int32)
    data = experiment.train_data()
    compiled = experiment.train_step().lower(state, data, order, root).compile()
    forward = forward_flops(experiment)
    passes = experiment.objective.forward_passes(config.attack.num_steps)
    memory = compiled.memory_analysis()
    devices = experiment.mesh.size
    batch = config.train.batch_size
    return "\n".join(
        [
            json.dumps(configs.plain(config), indent=2),
            f"parameters: {number_of_parameters(state.variables):,}",
            f"steps: {experiment.total_steps:,}, {experiment.steps_per_epoch:,} an epoch",
            f"forward pass: {forward / 1e9:.4g} GFLOP an image",
            f"training step: {forward * batch * passes / 1e9:,.4g} GFLOP over {devices} device(s)"
            f" ({passes} forward passes of {batch} images)",
            "compiled step, a device (a loop's body counted once):"
            f" {_flops(compiled) / 1e9:,.4g} GFLOP",
            "memory, a device:"
            f" {memory.argument_size_in_bytes / 2**20:,.1f} MiB of state and data,"
            f" {memory.temp_size_in_bytes / 2**20:,.1f} MiB of temporaries",
        ]
    )


def describe_ensemble(config: ConfigDict) -> str:
    """Returns the resolved config of an ensemble and the FLOPs of training and scoring it.

    Raises:
      UserError: the config or the data are wrong.
    """
    experiment = build(config)
    settings = config.memorization
    cost = member_cost(experiment)
    state = jax.eval_shape(experiment.initial_state)
    total = settings.members * (cost.training + cost.scoring)
    return "\n".join(
        [
            json.dumps(configs.plain(config), indent=2),
            f"parameters of a member: {number_of_parameters(state.variables):,}",
            f"a member: {cost.steps:,} steps of {config.train.batch_size} images"
            f" ({cost.passes} forward passes each), {cost.training / 1e12:,.4g} TFLOP;"
            f" scoring {cost.images:,} images, {cost.scoring / 1e12:,.4g} TFLOP",
            f"all {settings.members:,} members: {total / 1e15:,.4g} PFLOP, that is"
            f" {total / 1e14 / 3600:,.3g} device-hours at 100 TFLOP/s",
        ]
    )


class MemberCost(NamedTuple):
    """What one member of an ensemble takes.

    Attributes:
      steps: of its training.
      passes: the cost of a step in forward passes of the batch.
      training: FLOPs of all steps.
      images: how many it is scored on.
      scoring: FLOPs of that.
    """

    steps: int
    passes: int
    training: float
    images: int
    scoring: float


def member_cost(experiment: Experiment) -> MemberCost:
    """Returns what training one member of an ensemble and scoring it takes."""
    config, forward = experiment.config, forward_flops(experiment)
    size = round(config.memorization.ratio * len(experiment.train))
    steps = planned(experiment, examples=size).total_steps
    passes = experiment.objective.forward_passes(config.attack.num_steps)
    images = len(experiment.train) + len(experiment.dataset.test)
    is_attacked = config.memorization.inputs == "adversarial"
    attack = 2 * config.evaluation.num_steps if is_attacked else 0
    return MemberCost(
        steps=steps,
        passes=passes,
        training=forward * config.train.batch_size * passes * steps,
        images=images,
        scoring=forward * images * (1 + attack),
    )


def forward_flops(experiment: Experiment) -> float:
    """Returns the FLOPs of one image's forward pass, as XLA counts those of eight.

    Of plain convolutions, whichever form the back end computes them in.
    """
    images = jax.ShapeDtypeStruct((8, *experiment.dataset.image_shape), jnp.float32)
    variables = jax.eval_shape(experiment.initial_state).variables
    model = experiment.model.clone(lowering="xla")
    forward = jax.jit(lambda variables, images: model.apply(variables, images))
    return _flops(forward.lower(variables, images).compile()) / 8


def _flops(compiled: jax.stages.Compiled) -> float:
    return (compiled.cost_analysis() or {}).get("flops", float("nan"))
