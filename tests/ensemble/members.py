"""A small experiment whose members train in a second."""

from bat_jax.config import default
from bat_jax.training.building import build


def experiment(**fields):
    config = default()
    config.job = "memorization"
    config.data.name = "digits"
    config.data.validation = 0
    config.data.subset = 200
    config.data.crop_padding = 0
    config.data.flip = False
    config.model.name = "small_cnn"
    config.model.width = 2
    config.objective.name = "standard"
    config.attack.num_steps = 1
    config.programs.unroll = False
    config.train.epochs = 2
    config.train.batch_size = 32
    config.train.schedule.boundaries = (1.0,)
    config.evaluation.batch_size = 128
    config.evaluation.num_steps = 1
    config.parallel.devices = 2
    config.update_from_flattened_dict(fields)
    return build(config)
