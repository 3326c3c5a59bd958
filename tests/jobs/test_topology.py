"""Compiling for a TPU slice: reading programs and, with libtpu installed, compiling them."""

import importlib.util
import re
import subprocess
import sys

import jax
import pytest

from bat_jax.errors import UserError
from bat_jax.jobs import topology
from configs import digits_bat
from tests.command import refused
from tests.estimates import write_digits_estimates
from tests.jobs.test_train import ROOT
from tests.training.conftest import built, tiny

has_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: make topology"
)

PROGRAM = """HloModule jit_step

%region_1.2 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%body.7 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-reduce.1 = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%region_1.2
}

ENTRY %main.9 (p0: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]) while(%init), condition=%cond.3, body=%body.7
  %all-reduce-start.2 = (f32[4,2]{1,0}, bf16[3]{0}) all-reduce-start(%y, %z), to_apply=%region_1.2
  %all-reduce-done.2 = (f32[4,2]{1,0}, bf16[3]{0}) all-reduce-done(%all-reduce-start.2)
  %all-gather-start.3 = (f32[2]{0}, f32[4]{0:T(256)}) all-gather-start(%w), dimensions={0}
  ROOT %reduce-scatter.4 = s32[] reduce-scatter(%v), to_apply=%region_1.2
}
"""


def test_collectives_are_read_with_size_and_place():
    assert list(topology.collectives_of(PROGRAM)) == [
        topology.Collective("all-reduce", 32, True),
        topology.Collective("all-reduce", 38, False),
        topology.Collective("all-gather", 16, False),
        topology.Collective("reduce-scatter", 4, False),
    ]


def test_the_roofline_counts_a_collective_of_the_loop_at_every_attack_step():
    chip = topology.Chip(flops=1e12, memory=1e9, bandwidth=1e11, interconnect=1e10)
    once = topology.Cost(4e11, 7e10, 0, (topology.Collective("all-reduce", 10**9, False),))
    looped = topology.Cost(4e11, 7e10, 0, (topology.Collective("all-reduce", 10**9, True),))
    products, traffic, talk = once.seconds(chip, 4, 10)
    assert (products, traffic) == (pytest.approx(1.0), pytest.approx(1.0))
    assert talk == pytest.approx(2 * 0.75 * 0.1, rel=1e-3)
    assert looped.seconds(chip, 4, 10)[2] == pytest.approx(10 * talk)
    assert once.seconds(chip, 1, 10)[2] == 0


def test_a_batch_in_parts_costs_as_much_as_a_whole_one():
    whole, parts = (
        topology.measure(built(tiny("standard", **{"train.accumulation": n}))) for n in (1, 2)
    )
    # Each part computes its forward pass once more.
    assert 1 < parts.flops / whole.flops < 1.5


def test_an_unknown_generation_is_refused():
    with pytest.raises(UserError, match="unknown generation; expected one of v5e"):
        topology.describe(digits_bat.get_config(), "v9x:2x2")


def compile_for(name, config, *flags):
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "launch.py"),
            f"--config={ROOT}/configs/{config}.py",
            f"--aot_topology={name}",
            *flags,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_with_estimates_and_tests_by_class_is_built_without_its_data(tmp_path):
    config = digits_bat.get_config()
    config.memorization.estimates = str(write_digits_estimates(tmp_path / "estimates.npz"))
    config.objective.bat.gate = "memorized"
    config.evaluation.by = ("class",)
    config.evaluation.corruptions.path = str(tmp_path / "not_here")
    config.evaluation.corruptions.names = ("fog",)
    experiment, _ = topology._experiment(config, jax.devices())
    assert not experiment.dataset.train.images.any()
    assert experiment.estimates is not None


def test_a_job_without_a_step_to_compile_is_refused():
    line = refused("--config=digits_findings", "--aot_topology=v5e:2x2")
    assert "--aot_topology: config.job is 'findings'" in line


@pytest.mark.slow
@has_compiler
def test_a_step_is_compiled_for_four_chips_and_described():
    result = compile_for("v5e:2x2", "digits_bat")
    assert result.returncode == 0, result.stderr
    for words in ("4 chips of 16 GiB", ": fits", "all-reduce of", "PREDICTED by a roofline"):
        assert words in result.stdout
    # XLA's count, corrected for the loop, agrees with the count of forward passes.
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("FLOPs"))
    counted, expected = (float(word) for word in line.split() if word[0].isdigit() and "." in word)
    assert counted == pytest.approx(expected, rel=0.3)


@pytest.mark.slow
@has_compiler
def test_the_number_of_members_that_a_chip_holds_is_printed():
    result = compile_for("v5e:2x2", "digits_memorization")
    assert result.returncode == 0, result.stderr
    found = re.search(r"members per chip, at once: (\d+) in 80 %", result.stdout)
    # The state of a member, its momentum and its activations take more than 100 KB.
    assert 1 <= int(found[1]) < 0.8 * 16 * 2**30 / 1e5


@pytest.mark.slow
@has_compiler
def test_a_step_that_does_not_fit_ends_with_status_one():
    flags = ("--config.train.batch_size=32768", "--config.model.width=512")
    result = compile_for("v5e:2x2", "fashion_mnist_bat", *flags)
    assert result.returncode == 1, result.stderr
    assert "does not fit" in result.stdout


@pytest.mark.slow
@has_compiler
def test_a_slice_that_does_not_exist_is_refused():
    result = compile_for("v5e:3x5x7", "digits_bat")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("launch.py: --aot_topology=v5e:3x5x7: ")
