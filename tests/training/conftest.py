"""A tiny run on real digits, as a config and as an experiment."""

import pytest

from bat_jax.config import default
from bat_jax.training.building import build

_BUILT = {}


def built(config):
    """Returns the experiment of a config; a process compiles its programs once."""
    key = config.to_json_best_effort(sort_keys=True)
    if key not in _BUILT:
        _BUILT[key] = build(config)
    return _BUILT[key]


@pytest.fixture
def tiny_config():
    """Returns a function that makes the config of a short run."""
    return tiny


def tiny(objective="bat", **fields):
    """Returns the config of a short run on real digits."""
    config = default()
    config.data.name = "digits"
    config.data.validation = 32
    config.data.subset = 256
    config.data.crop_padding = 0
    config.data.flip = False
    config.model.name = "tests.networks:create"
    config.objective.name = objective
    config.attack.epsilon = 0.1
    config.attack.step_size = 0.05
    config.attack.num_steps = 2
    # What compiles fastest, a loop and XLA's own convolutions; other tests compare the forms.
    config.programs.update(training="xla", attack="xla", evaluation="xla")
    config.programs.unroll = False
    config.train.epochs = 2
    config.train.batch_size = 64
    config.train.schedule.boundaries = (1.0,)
    config.train.optimizer.learning_rate = 0.05
    config.train.log_every = 2
    config.evaluation.num_steps = 2
    config.evaluation.step_size = 0.05
    config.evaluation.batch_size = 64
    config.evaluation.losses = ("cross_entropy",)
    config.evaluation.attacks = ()
    config.parallel.devices = 1
    config.update_from_flattened_dict(fields)
    return config
