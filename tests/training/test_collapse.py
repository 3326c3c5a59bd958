"""A collapse is reported, the last good state is kept, and training goes back to it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bat_jax import config as configs
from bat_jax import models
from bat_jax.attacks.classifier import correct
from bat_jax.data.device import to_unit
from bat_jax.errors import UserError
from bat_jax.jobs import train
from bat_jax.training import checkpoints, loop
from bat_jax.training import experiment as experiments
from bat_jax.training.building import build
from bat_jax.training.collapse import Watch, gentler
from tests.training.conftest import built
from tests.training.test_checkpoints import LIKE, opened, state, steps

COLLAPSE = configs.default().train.collapse
# Guessing is right for 10 %, and clearly better than guessing is more than 12.8 %.
TEN = np.arange(1000) % 10


def flagged(watch, robust, *, clean=0.8, fgsm=0.7):
    """Returns the flags of states with these accuracies under PGD."""
    scores = [{"clean": clean, "pgd20": value, "fgsm": fgsm} for value in robust]
    return [watch.flagged(step, found)["collapsed"] for step, found in enumerate(scores)]


def test_a_fall_below_half_of_the_highest_accuracy_is_a_collapse(caplog):
    watch = Watch(COLLAPSE, score="pgd20", labels=TEN, highest=0.0)

    def flags(robust):
        return flagged(watch, robust)

    # A state near chance has nothing to lose.
    assert flags([0.128, 0.05, 0.4, 0.25]) == [0, 0, 0, 0]
    assert not caplog.messages
    # The highest accuracy is 0.4: below 0.2, a state has collapsed.
    assert flags([0.19, 0.1, 0.21, 0.5]) == [1, 1, 0, 0]
    assert (
        "step 1: training collapsed: accuracy under pgd20 fell from 40.0 % to 10.0 %" in caplog.text
    )


def test_a_collapse_is_seen_with_two_classes():
    watch = Watch(COLLAPSE, score="pgd20", labels=TEN % 2, highest=0.0)
    assert flagged(watch, (0.54, 0.2, 0.9, 0.1)) == [0, 0, 0, 1]


def test_the_accuracy_to_lose_is_clearly_above_that_of_the_most_common_class():
    # 20 % of one class; with 1,000 images, 3 standard errors are 3.8 points.
    labels = np.where(np.arange(1000) < 200, 0, np.arange(1000))
    for highest, is_flagged in ((0.237, 0), (0.239, 1)):
        watch = Watch(COLLAPSE, score="pgd20", labels=labels, highest=highest)
        assert flagged(watch, (0.02,)) == [is_flagged]


def test_a_fall_under_fgsm_too_is_overfitting(caplog):
    watch = Watch(COLLAPSE, score="pgd20", labels=TEN, highest=0.0)
    assert flagged(watch, (0.4, 0.15, 0.12), fgsm=0.24) == [0, 0, 0]
    assert caplog.text.count("robust overfitting: accuracy under pgd20 fell") == 1
    # Half of the accuracy under FGSM is the border.
    assert flagged(watch, (0.12, 0.1199), fgsm=0.24) == [0, 1]


def test_a_network_that_guesses_has_collapsed_under_any_attack():
    watch = Watch(COLLAPSE, score="pgd20", labels=TEN, highest=0.4)
    assert flagged(watch, (0.15,), clean=0.15, fgsm=0.15) == [1]
    # No better than guessing under PGD, though FGSM breaks the network too.
    assert flagged(watch, (0.11, 0.1), clean=0.3, fgsm=0.1) == [0, 1]


def test_a_watched_validation_has_fgsm(tiny_config):
    experiment = built(tiny_config("pgd_at", **{"train.collapse.watch": True}))
    variables, split = experiment.initial_state().variables, experiment.validation
    found = experiment.validator(variables, experiment.placed(split))
    assert set(found) == {"clean", experiment.score, "fgsm"}

    epsilon = experiment.config.attack.epsilon
    logits_of = models.logits_fn(experiment.evaluated(), variables)
    images, labels = to_unit(jnp.asarray(split.images)), jnp.asarray(split.labels)

    def loss(images):
        logits = logits_of(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    attacked = jnp.clip(images + epsilon * jnp.sign(jax.grad(loss)(images)), 0, 1)
    expected = correct(logits_of(attacked), labels) & correct(logits_of(images), labels)
    np.testing.assert_array_equal(found["fgsm"], expected)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"train.collapse.watch": True, "evaluation.select_by": "clean"},
            r"collapse\.watch is True and config\.evaluation\.select_by is clean; expected pgd",
        ),
        ({"train.collapse.retries": 1}, r"collapse\.retries is 1; expected 0 unless"),
        ({"train.collapse.factor": 1.0}, r"collapse\.factor is 1\.0; expected above 0 and below 1"),
        (
            {"train.collapse.watch": True, "train.collapse.retries": 1, "train.ema": 0.9},
            r"retries is 1 and config\.train\.ema is 0\.9; expected one of them: the averaged",
        ),
    ],
)
def test_a_watch_that_cannot_see_or_go_back_is_refused(tiny_config, fields, words):
    with pytest.raises(UserError, match=words):
        configs.check(tiny_config("pgd_at", **fields))


@pytest.mark.parametrize("is_watched", [True, False])
def test_one_step_that_nobody_watches_is_warned_of(tiny_config, caplog, is_watched):
    fields = {"attack.num_steps": 1, "train.collapse.watch": is_watched}
    build(tiny_config("pgd_at", **fields))
    assert ("the attack takes one step" in caplog.text) != is_watched


def scripted(monkeypatch, robust):
    """Makes validation return these accuracies under PGD, one after another."""
    left = iter(robust)

    def validator(self):
        def verdicts(variables, data):
            robust = np.arange(100) < 100 * next(left)
            return {"clean": np.ones(100), self.score: robust, "fgsm": np.ones(100)}

        return verdicts

    monkeypatch.setattr(experiments.Experiment, "validator", property(validator))


def records_of(folder, split):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["split"] == split]


@pytest.fixture
def watched(tiny_config, monkeypatch):
    """Returns a function that counts epochs of one step, with scripted validation."""
    monkeypatch.setattr(train, "evaluate", lambda experiment, states, workdir, *, seconds: states)

    def step(state, data, order, root):
        return state.replace(step=state.step + 1), {"loss": state.step, "accuracy": state.step}

    monkeypatch.setattr(experiments.Experiment, "train_step", staticmethod(step))
    # Measuring the peak rate takes seconds.
    monkeypatch.setattr(loop, "together", lambda devices, dtype: None)

    def run(folder, robust, retries):
        fields = {
            "train.collapse.watch": True,
            "train.collapse.retries": retries,
            "train.epochs": 4,
            "data.subset": 64,
            "checkpoint.keep": 1,
            "attack.num_steps": 1,
        }
        scripted(monkeypatch, robust)
        return train.train_and_evaluate(tiny_config("pgd_at", **fields), folder)

    return run


def test_a_collapse_is_recorded_and_the_last_good_state_kept(watched, tmp_path):
    states = watched(tmp_path, [0.5, 0.4, 0.1, 0.05], retries=0)
    assert (states["best"].state.step, states["last"].state.step) == (1, 4)
    flags = [r["collapsed"] for r in records_of(tmp_path, "validation")]
    assert flags == [0, 0, 1, 1]
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [1, 2, 4]


def test_training_goes_back_with_a_smaller_step_and_no_oftener_than_it_may(watched, tmp_path):
    # Epoch 3 collapses twice, and the second retry ends collapsed.
    robust = [0.5, 0.6, 0.1, 0.1, 0.1, 0.55]
    states = watched(tmp_path, robust, retries=2)
    assert states["last"].retries == 2
    assert states["last"].state.step == 4
    records = records_of(tmp_path, "collapse")
    assert [(r["step"], r["collapsed_step"]) for r in records] == [(2, 3), (2, 3)]
    np.testing.assert_allclose([r["step_size"] for r in records], [0.05 / 2, 0.05 / 4])
    assert [r["collapsed"] for r in records_of(tmp_path, "validation")] == [0, 0, 1, 0]
    assert {"collapsed-3", "collapsed-3-2"} <= {path.name for path in tmp_path.iterdir()}


def test_a_run_stopped_between_a_collapse_and_its_retry_goes_back_when_resumed(
    watched, tmp_path, monkeypatch
):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Checkpoints, "back_to_good", stop)
        with pytest.raises(KeyboardInterrupt):
            watched(tmp_path, [0.5, 0.6, 0.1], retries=1)
    states = watched(tmp_path, [0.5, 0.4], retries=1)
    assert states["last"].retries == 1
    assert states["last"].state.step == 4
    (record,) = records_of(tmp_path, "collapse")
    assert (record["step"], record["collapsed_step"]) == (2, 3)
    assert [r["collapsed"] for r in records_of(tmp_path, "validation")] == [0, 0, 0, 0]


@pytest.mark.parametrize("place", ["before its record", "after its record"])
def test_a_run_stopped_in_a_retry_goes_on_with_it_when_resumed(
    watched, tmp_path, monkeypatch, place
):
    """The second retry begins from a state that was saved before the first one."""
    back, fit, begun = checkpoints.Checkpoints.back_to_good, train.fit, []

    def stop_after_back(*arguments):
        good = back(*arguments)
        begun.append(good)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return good

    def stop_at_fit(attempt, checkpoints, records, start, interruption):
        if start.retries == 2:
            raise KeyboardInterrupt
        return fit(attempt, checkpoints, records, start, interruption)

    with monkeypatch.context() as patched:
        if place == "before its record":
            patched.setattr(checkpoints.Checkpoints, "back_to_good", stop_after_back)
        else:
            patched.setattr(train, "fit", stop_at_fit)
        with pytest.raises(KeyboardInterrupt):
            watched(tmp_path, [0.5, 0.6, 0.1, 0.1], retries=2)
    states = watched(tmp_path, [0.5, 0.55], retries=2)
    assert states["last"].retries == 2
    records = records_of(tmp_path, "collapse")
    assert [(r["step"], r["collapsed_step"]) for r in records] == [(2, 3), (2, 3)]
    np.testing.assert_allclose([r["step_size"] for r in records], [0.05 / 2, 0.05 / 4])
    assert [r["collapsed"] for r in records_of(tmp_path, "validation")] == [0, 0, 0, 0]
    # Resumed again, the state that has its number of retries is not taken back.
    assert watched(tmp_path, [], retries=2)["last"].retries == 2


def test_the_step_size_of_a_retry_is_that_of_its_experiment(tiny_config):
    experiment = built(tiny_config("pgd_at"))
    assert gentler(experiment, 0) is experiment
    assert gentler(experiment, 3).config.attack.step_size == 0.05 / 8
    assert experiment.config.attack.step_size == 0.05


def test_a_resumed_run_knows_its_good_states_and_its_retries(tmp_path):
    checkpoints = opened(tmp_path, keep=1)
    for step, robust, flag in ((1, 0.5, 0.0), (2, 0.3, 0.0), (3, 0.4, 0.0), (4, 0.1, 1.0)):
        metrics = {"pgd2": robust, "collapsed": flag}
        checkpoints.save(state(step), seconds=float(step), metrics=metrics, retries=1)
    checkpoints.close()
    checkpoints = opened(tmp_path, keep=1)
    # The best, the last good and the newest are kept.
    assert checkpoints.good == {1: 0.5, 3: 0.4}
    assert checkpoints.latest(LIKE).retries == 1
    good = checkpoints.back_to_good(LIKE)
    assert (int(good.state.step), good.retries) == (3, 1)
    assert steps(tmp_path) == [1, 3]
    assert (tmp_path / "collapsed-4").is_dir()
    checkpoints.close()
