"""FLOPs of a training step: of the model, and of the compiled program."""

import dataclasses

import jax
import jax.numpy as jnp

from bat_jax import methods, models
from bat_jax.kernels import convolution
from bat_jax.training.experiment import Experiment


def forward_flops(experiment: Experiment) -> float:
    """Returns the FLOPs of one image's forward pass, from XLA's count for eight images.

    Counts plain convolutions without the products with padding, regardless of the form that the
    back end computes. Only CPU's back end counts programs that are not compiled, so the pass is
    lowered for CPU; NaN if JAX may not use CPU (JAX_PLATFORMS).
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return float("nan")
    images = jax.ShapeDtypeStruct((8, *experiment.dataset.image_shape), jnp.float32)
    variables = jax.eval_shape(experiment.initial_state).variables
    model = models.with_conv(experiment.model, convolution.xla)
    forward = jax.jit(lambda variables, images: model.apply(variables, images))
    with jax.default_device(cpu):
        return flops(forward.lower(variables, images)) / 8


def step_flops(experiment: Experiment) -> float:
    """Returns the minimum FLOPs of a step of the method, over all devices; NaN as above."""
    config = experiment.config
    passes = methods.step_passes(experiment.method, config)
    return forward_flops(experiment) * config.train.batch_size * passes


def lowered_step(experiment: Experiment) -> jax.stages.Lowered:
    """Returns the config's training step, lowered but not compiled."""
    return experiment.train_step.lower(*experiment.step_shapes())


def program_flops(experiment: Experiment) -> float:
    """Returns the FLOPs of the compiled step on one device, by XLA's count.

    XLA counts the body of a loop once. So the attack is counted as the program with one step plus
    K - 1 times the difference that a second step makes, both unrolled; the parts of a batch
    (`train.accumulation`) count as separate programs.
    """
    num_steps = experiment.config.attack.num_steps
    counted = [
        flops(lowered_step(_with_steps(experiment, steps)).compile())
        for steps in range(min(num_steps, 1), min(num_steps, 2) + 1)
    ]
    total = counted[0] + (num_steps - 1) * (counted[-1] - counted[0])
    return total * experiment.config.train.accumulation


def flops(program: jax.stages.Lowered | jax.stages.Compiled) -> float:
    """Returns XLA's count, with loop bodies counted once; NaN if XLA gives none."""
    return (program.cost_analysis() or {}).get("flops", float("nan"))


def _with_steps(experiment: Experiment, steps: int) -> Experiment:
    config = experiment.config.copy_and_resolve_references()
    config.attack.num_steps = steps
    programs = dataclasses.replace(experiment.programs, unroll=True)
    return dataclasses.replace(experiment, config=config, programs=programs)
