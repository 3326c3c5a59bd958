"""A run stopped anywhere resumes to the same bits: batch norm, dropout, bfloat16, crops, EMA."""

import itertools
import json
import signal
import time

import jax
import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.runtime.interruption import Interrupted, Interruption
from bat_jax.training.building import build
from bat_jax.training.checkpoints import Checkpoints, Saved
from bat_jax.training.loop import Meter, NonFiniteError, fit
from bat_jax.training.metrics import MetricsLog
from tests.data import archives
from tests.training.test_step import history_of


class AfterSteps(Interruption):
    """Simulates SIGTERM after a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    def poll(self):
        self._left -= 1
        if self._left < 0:
            self.requested = signal.SIGTERM
        return self.requested is not None


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Two epochs of three steps of a small network on made images."""
    from tests.training.conftest import tiny

    archive = tmp_path_factory.mktemp("cifar") / "cifar-100-binary.tar.gz"
    archives.make_cifar100(archive, train=64, test=16, classes=5)
    fields = {
        "data.name": "cifar100",
        "data.path": str(archive),
        "data.validation": 16,
        "data.subset": 0,
        "data.crop_padding": 4,
        "data.flip": True,
        "model.name": "tests.networks:in_bfloat16",
        "train.batch_size": 16,
        "train.ema": 0.9,
        "attack.num_steps": 1,
        "evaluation.num_steps": 1,
        "evaluation.batch_size": 16,
    }
    return build(tiny("bat", **fields))


def train(experiment, folder, interruption=None):
    """Trains in a folder from its newest checkpoint and returns the last state."""
    checkpoints = Checkpoints(
        folder / "checkpoints", keep=2, score=experiment.score, mesh=experiment.mesh
    )
    shapes = jax.eval_shape(experiment.initial_state)
    start = checkpoints.latest(shapes)
    start = start or Saved(experiment.initial_state(), 0.0)
    records = MetricsLog(folder, resumed_step=int(start.state.step))
    try:
        last = fit(experiment, checkpoints, records, start, interruption or Interruption())
        return jax.device_get(last.state), int(checkpoints.best(shapes).state.step)
    finally:
        records.close()
        checkpoints.close()


def test_a_run_stopped_at_any_step_ends_with_the_same_bits(experiment, tmp_path):
    (tmp_path / "whole").mkdir()
    whole, best = train(experiment, tmp_path / "whole")
    assert whole.step == 6
    assert history_of(whole).presented.sum() == 6 * 16
    for steps in (1, 3):
        folder = tmp_path / f"stopped{steps}"
        folder.mkdir()
        with pytest.raises(Interrupted, match=r"stopped by SIGTERM: step \d of 6 is saved"):
            train(experiment, folder, AfterSteps(steps - 1))
        resumed, resumed_best = train(experiment, folder)
        jax.tree.map(np.testing.assert_array_equal, resumed, whole)
        assert resumed_best == best


def test_a_checkpoint_too_large_for_memory_is_not_damaged(experiment, tmp_path, monkeypatch):
    train(experiment, tmp_path)
    checkpoints = Checkpoints(
        tmp_path / "checkpoints", keep=2, score=experiment.score, mesh=experiment.mesh
    )
    shapes = jax.eval_shape(experiment.initial_state)

    def fail(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "restore", fail)
        with pytest.raises(MemoryError):
            checkpoints.latest(shapes)
    assert checkpoints.latest(shapes).state.step == 6
    checkpoints.close()


def test_readers_keep_damaged_checkpoints(experiment, tmp_path, monkeypatch):
    train(experiment, tmp_path)
    checkpoints = Checkpoints(
        tmp_path / "checkpoints", keep=2, score=experiment.score, mesh=experiment.mesh
    )
    shapes = jax.eval_shape(experiment.initial_state)
    before = set(checkpoints._manager.all_steps())
    monkeypatch.setattr(checkpoints, "_read", lambda step, like: None)
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        checkpoints.latest(shapes)
    assert set(checkpoints._manager.all_steps()) == before
    checkpoints.close()


def test_a_missing_score_is_reported(experiment, tmp_path):
    train(experiment, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2, score="pgd77", mesh=experiment.mesh)
    with pytest.raises(UserError, match="no checkpoint was scored by pgd77"):
        checkpoints.best(jax.eval_shape(experiment.initial_state))
    checkpoints.close()


def test_a_clock_that_jumps_changes_neither_bits_nor_rates(experiment, tmp_path, monkeypatch):
    for name in ("steady", "jumping"):
        (tmp_path / name).mkdir()
    steady, _ = train(experiment, tmp_path / "steady")
    # Only a minute, because Orbax uses this clock and abandons a checkpoint after minutes.
    times = itertools.cycle([1e9, 1e9 - 60, 1e9 + 60])
    monkeypatch.setattr(time, "time", lambda: next(times))
    began = time.monotonic()
    jumping, _ = train(experiment, tmp_path / "jumping")
    took = time.monotonic() - began
    jax.tree.map(np.testing.assert_array_equal, jumping, steady)
    records = (tmp_path / "jumping" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(r)["images_per_second"] for r in records if "images_per_second" in r]
    assert all(json.loads(r)["utilisation"] > 0 for r in records if "images_per_second" in r)
    # Each average covers at least one step of sixteen images, and at most the whole training.
    assert all(16 / took < rate < 1e6 for rate in rates)


def test_the_meter_reads_one_step_late_and_names_what_is_not_finite():
    written = []
    meter = Meter(lambda step: step % 2 == 0, lambda step, means: written.append((step, means)))
    meter.push(1, {"loss": np.float32(1.0)})
    meter.push(2, {"loss": np.float32(3.0)})
    assert not written
    meter.push(3, {"loss": np.float32("nan"), "accuracy": np.float32(0.5)})
    assert written[0][0] == 2
    assert written[0][1]["loss"] == 2.0
    with pytest.raises(NonFiniteError, match="step 3: not finite: loss;"):
        meter.flush()
