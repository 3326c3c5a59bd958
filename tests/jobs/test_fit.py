"""Attacks on a finished training use its config, except for what the caller names."""

import dataclasses
import json
import signal

import pytest

from bat_jax.attacks.versions import STANDARD
from bat_jax.errors import UserError
from bat_jax.jobs import fit, train
from bat_jax.runtime.interruption import Interrupted
from tests.networks import Normalized
from tests.training.conftest import built, tiny


@pytest.mark.parametrize(
    ("options", "attacks"),
    [({}, STANDARD), ({"version": "plus"}, None), ({"attacks": ("square",)}, ("square",))],
)
def test_a_version_replaces_the_attacks_of_the_config(monkeypatch, options, attacks):
    given = {}
    monkeypatch.setattr(fit, "autoattack", lambda *_, **settings: given.update(settings))
    experiment = built(tiny(**{"evaluation.attacks": STANDARD}))
    fitted = fit.Fitted(experiment.evaluated(), {}, {}, {}, experiment)
    fitted.attack(experiment.dataset.test, **options)
    assert given.get("attacks") == attacks
    assert given.get("version") == options.get("version")
    assert given["epsilon"] == 0.1


@pytest.mark.parametrize("call", ["evaluate", "attack"])
def test_only_images_of_the_models_classes_and_size_are_tested(call):
    experiment = built(tiny())
    use = getattr(fit.Fitted(experiment.evaluated(), {}, {}, {}, experiment), call)
    test = experiment.dataset.test
    with pytest.raises(UserError, match="type Dataset; expected a Split, such as"):
        use(experiment.dataset)
    with pytest.raises(UserError, match="image 0 has label 10; expected 0 to 9"):
        use(dataclasses.replace(test, labels=test.labels * 0 + 10))
    with pytest.raises(UserError, match=r"images are \(7, 8, 1\); expected \(8, 8, 1\)"):
        use(dataclasses.replace(test, images=test.images[:, 1:]))


def test_a_stopped_run_without_a_folder_promises_no_resumption(monkeypatch):
    def stop(*_):
        raise Interrupted(signal.SIGTERM, "step 3 is saved")

    monkeypatch.setattr(fit, "_fit_in", stop)
    with pytest.raises(
        Interrupted, match=r"^stopped by SIGTERM: without a workdir, nothing is sav"
    ):
        fit.fit(tiny("standard"))
    with pytest.raises(Interrupted, match="step 3 is saved; run the same command to resume"):
        fit.fit(tiny("standard"), workdir="run")


class Claimed(Exception):
    """The folder fits the model."""


@pytest.fixture
def claimed(monkeypatch, tmp_path):
    """Returns a function that begins a run of a model in one folder, and stops before training."""

    def stop(*_):
        raise Claimed

    monkeypatch.setattr(train, "finished_results", stop)

    def claim(model):
        fit.fit(tiny("standard"), model=model, workdir=tmp_path)

    with pytest.raises(Claimed):
        claim(Normalized(sync=False))
    return claim


def test_a_folder_is_refused_to_another_given_model(claimed):
    with pytest.raises(Claimed):
        claimed(Normalized(sync=False))
    words = r"another model \(there, here\): fields.dropout: 0.0, 0.5; name another folder, or give"
    with pytest.raises(UserError, match=words) as caught:
        claimed(Normalized(sync=False, dropout=0.5))
    assert "\n" not in str(caught.value)


def test_a_folder_of_an_older_version_takes_any_given_model(claimed, tmp_path):
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    del content["model"]
    path.write_text(json.dumps(content))
    with pytest.raises(Claimed):
        claimed(Normalized(sync=False, dropout=0.5))
