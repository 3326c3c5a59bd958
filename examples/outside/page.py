"""Trains a model from outside the package by a method and on data from outside.

    bat-jax --config=page.py

Run it in this folder, where the modules are. Half a minute on two CPU cores. Expected: above 90 %
clean and above 80 % under PGD-20.
"""

from ml_collections import ConfigDict

from bat_jax.config import default


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default()
    config.data.name = "shapes:load"
    config.data.validation = 100
    config.data.crop_padding = 0
    config.data.flip = False

    config.model.name = "mixer:create"
    config.objective.name = "label_weighted:LabelWeighted"

    config.attack.epsilon = 0.1
    config.attack.step_size = 0.03
    config.attack.num_steps = 5

    config.train.epochs = 6
    config.train.batch_size = 64
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.name = "cosine"

    config.evaluation.step_size = 0.02
    config.evaluation.batch_size = 128
    config.evaluation.attacks = ()
    return config
