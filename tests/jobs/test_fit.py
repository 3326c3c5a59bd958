"""Attacks on a finished training use its config, except for what the caller names."""

import pytest

from bat_jax.attacks.versions import STANDARD
from bat_jax.jobs import fit
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
