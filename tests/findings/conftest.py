"""Findings that take seconds: tiny runs on real digits, with made-up estimates."""

import pytest
from ml_collections import ConfigDict

from bat_jax import config as configs
from tests.estimates import write_digits_estimates
from tests.training.conftest import tiny


@pytest.fixture(scope="session")
def estimates(tmp_path_factory):
    return str(write_digits_estimates(tmp_path_factory.mktemp("estimates") / "memorization.npz"))


@pytest.fixture(scope="session")
def findings_config(estimates):
    """Returns a function that makes the config of findings that take seconds."""

    def make(**fields):
        config = configs.findings()
        for name, value in tiny("bat").items():
            if isinstance(value, ConfigDict):
                config[name].update(value.to_dict())
        config.data.subset = 0
        config.train.epochs = 1
        config.memorization.estimates = estimates
        config.evaluation.track.images = 8
        config.evaluation.track.num_steps = 1
        config.findings.seeds = (0,)
        config.findings.methods = ("pgd_at", "bat")
        config.findings.tracked = ("pgd_at",)
        config.findings.removed = (1.0,)
        config.findings.variants = ConfigDict()
        config.update_from_flattened_dict(fields)
        return config

    return make
