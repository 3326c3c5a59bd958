"""Programs are resolved once, from the back end, the model and the job, or from the config."""

import pytest

from bat_jax.config import default
from bat_jax.errors import UserError
from bat_jax.kernels import programs


def resolved(*, is_small=False, is_ensemble=False, is_attacked=True, **overrides):
    asked = {**default().programs, **overrides}
    return programs.resolve(
        asked, is_small=is_small, is_ensemble=is_ensemble, is_attacked=is_attacked
    )


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setenv(programs.OVERRIDE, "cpu")


def test_accelerators_have_xlas_convolutions_and_loops(monkeypatch):
    monkeypatch.setenv(programs.OVERRIDE, "accelerator")
    for is_small in (False, True):
        found = resolved(is_small=is_small, is_ensemble=True, is_attacked=False)
        assert {found.training, found.attack, found.evaluation, found.autoattack} == {"xla"}
        assert not found.unroll
        assert found.execution == "vmap"


def test_small_networks_are_products_in_a_loop_on_cpu(cpu):
    found = resolved(is_small=True)
    assert (found.training, found.attack, found.evaluation) == ("patches",) * 3
    assert found.autoattack == "cpu"
    assert not found.unroll


def test_large_networks_are_convolutions_outside_of_loops_on_cpu(cpu):
    found = resolved()
    assert (found.training, found.attack, found.evaluation) == ("cpu",) * 3
    assert found.unroll


def test_without_an_attack_the_batch_is_last_on_cpu(cpu):
    found = resolved(is_ensemble=True, is_attacked=False)
    assert found.training == "batch_last"
    assert found.evaluation == "patches"
    assert found.execution == "map"


def test_each_choice_has_its_own_option(cpu):
    found = resolved(training="xla", unroll=False, execution="vmap", members_at_once=3)
    assert (found.training, found.attack) == ("xla", "cpu")
    assert (found.unroll, found.execution, found.members_at_once) == (False, "vmap", 3)
    assert resolved(evaluation="xla").autoattack == "xla"


def test_with_patches_members_are_scored_on_batches_that_fit_in_the_cache(cpu):
    small = resolved(is_small=True)
    assert small.scored_at_once(500, pixels=28 * 28) == 16
    assert small.scored_at_once(500, pixels=8 * 8) == 196
    assert small.scored_at_once(10, pixels=28 * 28) == 10
    assert small.scored_at_once(10, pixels=200 * 200) == 1
    assert resolved().scored_at_once(500, pixels=28 * 28) == 500


def test_an_unknown_style_is_refused(monkeypatch):
    monkeypatch.setenv(programs.OVERRIDE, "fast")
    with pytest.raises(UserError, match="BAT_JAX_PROGRAMS is 'fast'"):
        programs.is_cpu_style()
