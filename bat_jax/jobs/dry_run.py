"""Predicts the cost of a run without running it."""

import json
from typing import Any

import jax
from ml_collections import ConfigDict

from bat_jax import methods
from bat_jax.runtime.peak import together
from bat_jax.runtime.plain import plain
from bat_jax.training.building import build, check_batch, check_memory_fits
from bat_jax.training.experiment import Experiment
from bat_jax.training.flops import forward_flops, lowered_step, program_flops, step_flops
from bat_jax.training.state import number_of_parameters


def describe(config: ConfigDict) -> str:
    """Returns the resolved config, parameter count, FLOPs, minimum time and memory of a run.

    Raises:
      UserError: the config, the data or the estimates are wrong.
    """
    experiment = build(config)
    check_batch(experiment)
    check_memory_fits(experiment)
    state = jax.eval_shape(experiment.initial_state)
    memory: Any = lowered_step(experiment).compile().memory_analysis()
    forward, model, program = (
        count(experiment) for count in (forward_flops, step_flops, program_flops)
    )
    passes = methods.step_passes(experiment.method, config)
    devices = experiment.mesh.size
    share = program * devices / model
    return "\n".join(
        [
            json.dumps(plain(config), indent=2),
            f"parameters: {number_of_parameters(state.variables):,}",
            f"steps: {experiment.total_steps:,}, {experiment.steps_per_epoch:,} per epoch",
            f"programs: {experiment.programs}",
            f"forward pass: {forward / 1e9:.4g} GFLOP per image",
            f"training step: {model / 1e9:,.4g} GFLOP over {devices} device(s)"
            f" ({passes} forward passes of {config.train.batch_size} images)",
            *_least_time(experiment, model),
            f"compiled step: {program / 1e9:,.4g} GFLOP per device, in total {share:.3g} times the"
            " step's (every iteration of a loop counted)",
            "memory per device:"
            f" {memory.argument_size_in_bytes / 2**20:,.1f} MiB of state and data,"
            f" {memory.temp_size_in_bytes / 2**20:,.1f} MiB of temporaries",
        ]
    )


def _least_time(experiment: Experiment, step: float) -> list[str]:
    """Returns a line with the minimum time of all steps, if the peak rate is known.

    Args:
      experiment: the training run.
      step: the FLOPs of a step over all devices.
    """
    total = step * experiment.total_steps
    devices = list(experiment.mesh.devices.flat)
    peak = together(devices, experiment.config.model.dtype)
    if peak is None:
        return [f"training: {total / 1e12:,.4g} TFLOP; this device's peak rate is not known"]
    return [
        f"training: {total / 1e12:,.4g} TFLOP, at least {_duration(total / peak)} at"
        f" {peak / 1e9:,.4g} GFLOP/s, the peak of {len(devices)} {devices[0].device_kind}"
        " device(s), without evaluation"
    ]


def _duration(seconds: float) -> str:
    for unit, length in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600)):
        if seconds >= length:
            return f"{seconds / length:,.3g} {unit}"
    return f"{seconds:.3g} s"
