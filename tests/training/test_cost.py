"""The cost of a step in the compiler's count, which does not depend on the machine's load."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest

from bat_jax.data.device import shapes, to_devices
from bat_jax.ensemble.members import Ensemble
from bat_jax.kernels import programs
from bat_jax.training.flops import flops, forward_flops, lowered_step, program_flops, step_flops
from bat_jax.training.state import number_of_parameters
from tests import compilations
from tests.training.conftest import built, tiny

STEPS = 2
OBJECTIVES = ("standard", "pgd_at", "trades", "mart", "gairat", "bat")
BATCH = 64
# Forward passes of the batch that a step needs; a backward pass is two.
PASSES = {
    "standard": 3,
    "pgd_at": 2 * STEPS + 3,
    "trades": 2 * STEPS + 7,
    "mart": 2 * STEPS + 6,
    "gairat": 2 * STEPS + 3,
    "bat": 2 * STEPS + 3,
}
# Work that is no product, such as the loss, differs by compiler; a pass too many is seen.
HALF = 0.5


@pytest.fixture(scope="module", autouse=True)
def _accelerator_style():
    """XLA counts its own convolutions alike on every back end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(programs.OVERRIDE, "accelerator")
        yield


@functools.cache
def compile_step(objective):
    """Returns an experiment and its compiled step, with the attack unrolled to be counted."""
    fields = {
        "model.name": "small_cnn",
        "programs.unroll": True,
        "attack.num_steps": STEPS,
        "objective.bat.start_epoch": 0.0,
        "objective.gairat.start_epoch": 0.0,
    }
    experiment = built(tiny(objective, **fields))
    return experiment, lowered_step(experiment).compile()


@functools.cache
def forward():
    """Returns the FLOPs of a forward pass of the batch; all objectives have the same model."""
    return BATCH * forward_flops(compile_step("pgd_at")[0])


def passes(count):
    """Returns a number of FLOPs in forward passes of the batch."""
    return count / forward()


def temporaries(program):
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_computes_no_more_than_its_objective_must(objective):
    experiment, program = compile_step(objective)
    must = PASSES[objective]
    assert passes(step_flops(experiment)) == pytest.approx(must)
    # A compiler may share the passes of clean images in the attack and in the loss of TRADES.
    least = must - (objective == "trades")
    assert least - HALF < passes(flops(program)) < must + HALF


def test_a_step_is_counted_wherever_jax_has_cpu(monkeypatch):
    experiment = built(tiny("pgd_at"))
    counted, asked = step_flops(experiment), jax.local_devices
    assert counted > 0

    def only_an_accelerator(*, backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return asked(backend=backend)

    monkeypatch.setattr(jax, "local_devices", only_an_accelerator)
    assert math.isnan(step_flops(experiment))


def test_loops_are_counted_as_often_as_they_run():
    def of(**fields):
        return built(tiny("pgd_at", **{"model.name": "small_cnn", **fields}))

    assert passes(program_flops(of())) == pytest.approx(7, abs=HALF)
    # XLA counts the body of a loop once.
    assert passes(flops(lowered_step(of()).compile())) == pytest.approx(5, abs=HALF)
    # A batch in parts is forwarded once more: accumulation.py.
    in_parts = program_flops(of(**{"train.accumulation": 2}))
    assert passes(in_parts) == pytest.approx(8, abs=HALF)


def test_bat_costs_what_pgd_at_does():
    (_, bat), (_, plain) = compile_step("bat"), compile_step("pgd_at")
    assert passes(flops(bat)) < passes(flops(plain)) + HALF

    def memory(program):
        return temporaries(program) + program.memory_analysis().argument_size_in_bytes

    assert memory(bat) < 1.1 * memory(plain)


def test_an_attack_takes_no_more_memory_than_the_update():
    experiment, plain = compile_step("standard")
    assert temporaries(compile_step("pgd_at")[1]) < 1.1 * temporaries(plain)
    # The activations of the batch, as many gradients, and the gradients of the parameters.
    activations = BATCH * (8 * 8 * 16 + 4 * 4 * 32 + 2 * 2 * 64 + 128)
    parameters = number_of_parameters(jax.eval_shape(experiment.initial_state).variables)
    assert temporaries(plain) < 2 * 4 * (2 * activations + parameters)


def test_evaluation_compiles_once_whatever_the_last_batch():
    experiment = built(tiny("pgd_at"))
    evaluator = experiment.evaluator(("cross_entropy",))
    variables = experiment.initial_state().variables
    # A whole batch of 64, then 36.
    data = to_devices(experiment.train.take(np.arange(100)), experiment.mesh)
    compiled = []
    with compilations.heard() as heard:
        verdicts = evaluator(variables, data, lambda images: compiled.append(len(heard)))
    assert len(verdicts["clean"]) == 100
    first, last = compiled
    assert first == last


def test_evaluation_is_in_float32_at_the_highest_precision_whatever_training_is_in():
    experiment = built(tiny("pgd_at", **{"model.name": "small_cnn", "model.dtype": "bfloat16"}))
    variables = jax.eval_shape(experiment.initial_state).variables
    arguments = shapes(experiment.validation), np.int32(0), jax.eval_shape(experiment.root)
    step = experiment.evaluator(("cross_entropy",))._step.lower(variables, *arguments)
    assert_precise(step.as_text())
    with pytest.raises(AssertionError):
        assert_precise(lowered_step(experiment).as_text())


def test_members_are_scored_at_the_highest_precision():
    fields = {"job": "memorization", "data.validation": 0, "memorization.inputs": "adversarial"}
    fields |= {"model.name": "small_cnn", "model.dtype": "bfloat16"}
    fields |= {"programs.members_at_once": 1}
    experiment = built(tiny("standard", **fields))
    ensemble = Ensemble(experiment, members=1)
    one = jax.ShapeDtypeStruct((1,), np.int32)
    sets = shapes(experiment.train), shapes(experiment.dataset.test)
    assert_precise(ensemble._scored.lower(ensemble._states(1), one, *sets).as_text())


def assert_precise(program):
    products = [
        line
        for line in program.splitlines()
        if "stablehlo.convolution" in line or "stablehlo.dot" in line
    ]
    assert products
    assert all("HIGHEST" in line for line in products)
    assert "bf16" not in program


@functools.cache
def lowered(num_steps):
    """Returns an experiment on 256 images, and its step as StableHLO."""
    experiment = built(tiny("pgd_at", **{"attack.num_steps": num_steps}))
    return experiment, lowered_step(experiment).as_text()


def test_a_longer_attack_is_the_same_program():
    short, long = (lowered(steps)[1] for steps in (2, 10))
    assert len(short.splitlines()) == len(long.splitlines())


def test_an_iteration_of_the_attacks_loop_may_hold_several_steps():
    def lines(unroll):
        experiment = built(tiny("pgd_at", **{"attack.num_steps": 4}))
        chosen = dataclasses.replace(experiment.programs, unroll=unroll)
        program = lowered_step(dataclasses.replace(experiment, programs=chosen)).as_text()
        return len(program.splitlines())

    assert lines(False) == lines(1) < lines(2)


def test_the_state_is_updated_in_place():
    experiment, text = lowered(2)
    state = jax.eval_shape(experiment.initial_state)
    donated = text.count("tf.aliasing_output") + text.count("jax.buffer_donor")
    assert donated == len(jax.tree.leaves(state))


def test_images_stay_uint8_until_a_batch_is_taken():
    experiment, text = lowered(2)
    batch, every = 64, len(experiment.train)
    types = set(re.findall(r"tensor<(\d+)x8x8x1x(\w+)>", text))
    assert (str(every), "ui8") in types
    assert (str(every), "f32") not in types
    assert (str(batch), "f32") in types
