"""A run's averaged weights are those that are scored, tested and given statistics."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks.result import Result
from bat_jax.jobs import final
from bat_jax.training.checkpoints import Saved
from tests.networks import Normalized
from tests.training.conftest import built, tiny
from tests.training.test_loop import train
from tests.training.test_step import assert_close, order_of

RATE = 0.5


@pytest.fixture(scope="module")
def experiment():
    """Two epochs of two steps of a network with batch norm, whose weights are averaged."""
    config = tiny(
        "standard",
        **{
            "data.subset": 128,
            "data.validation": 64,
            "train.swa_start_epoch": 0,
            "train.optimizer.learning_rate": RATE,
            # As many as validation images, for the same program.
            "evaluation.subset": 64,
            "evaluation.attacks": ("apgd-ce",),
        },
    )
    return dataclasses.replace(built(config), model=Normalized(sync=True))


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    """The last state, and the records."""
    folder = tmp_path_factory.mktemp("run")
    state, _ = train(experiment, folder)
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return state, list(records)


def test_the_average_is_what_a_run_scores(experiment, trained):
    state, records = trained
    images = experiment.placed(experiment.validation)

    def scores(variables):
        verdicts = experiment.validator(variables, images)
        return {name: np.mean(is_correct) for name, is_correct in verdicts.items()}

    *_, recorded = (record for record in records if record["split"] == "validation")
    found = {name: recorded[name] for name in scores(state.ema)}
    assert found == scores(state.ema)
    assert found != scores(state.variables)


def test_an_average_of_epochs_ends_with_the_statistics_of_its_weights(experiment, trained):
    state, _ = trained
    statistics = state.ema["batch_stats"]
    stale = state.replace(ema={**state.ema, "batch_stats": state.variables["batch_stats"]})
    last = experiment.config.train.epochs - 1
    arguments = (experiment.train_data(), order_of(experiment, last), experiment.root())
    again = experiment.refreshed(stale, *arguments)
    assert_close(again.ema["batch_stats"], statistics, rtol=1e-6)
    means = [each["BatchNorm_0"]["mean"] for each in (statistics, stale.ema["batch_stats"])]
    assert not np.allclose(*means, rtol=0.01)


def test_a_record_has_the_rate_of_the_step_it_ends_with(experiment, trained):
    rates = {r["step"]: r["learning_rate"] for r in trained[1] if r["split"] == "train"}
    # The rate decays after the first epoch, which has two steps.
    assert rates == {2: pytest.approx(RATE), 4: pytest.approx(RATE / 10)}


def test_the_average_is_what_is_tested(experiment, tmp_path, monkeypatch):
    def harmless(logits_fn, images, labels, key, **_):
        """Stands in for AutoAttack."""
        is_correct = np.asarray(logits_fn(jnp.asarray(images))).argmax(axis=1) == labels
        none = np.zeros_like(is_correct)
        by_attack, seconds = {"apgd-ce": none}, {"apgd-ce": 0.0}
        return Result(is_correct, is_correct, by_attack, none, seconds, *[None] * 5)

    monkeypatch.setattr(final, "autoattack", harmless)
    state = jax.device_get(experiment.initial_state())
    # The average calls every image a 3.
    head = {**state.ema["params"]["Dense_0"], "bias": np.float32(1e6 * (np.arange(10) == 3))}
    average = {**state.ema, "params": {**state.ema["params"], "Dense_0": head}}
    saved = Saved(state.replace(ema=average), 0.0)
    found = final.evaluate(experiment, {"last": saved}, tmp_path, seconds=0.0)["last"]["test"]
    expected = np.mean(experiment.test_images().labels == 3)
    assert expected > 0
    assert {name: each["accuracy"] for name, each in found.items()} == pytest.approx(
        dict.fromkeys(("clean", "pgd2", "autoattack"), expected)
    )
