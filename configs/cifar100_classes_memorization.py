"""Memorization and influence on five classes of CIFAR-100, checked against released values.

    python launch.py --config=configs/cifar100_classes_memorization.py \
        --config.data.path=cifar-100-binary.tar.gz

The superclass with the most released high-influence pairs of Feldman & Zhang, arXiv:2008.03703: the
small mammals, with 89 of 1,015. Members are the network of `bat_jax.models.fast_cnn`, 10 epochs of
one cycle on 70 % of 2,500 images. Hardware: a CPU core, 8 s per member. Expected:
docs/results/cifar100_memorization.md.
"""

from ml_collections import ConfigDict

from bat_jax.config import default


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default()
    config.job = "memorization"
    config.data.name = "cifar100"
    config.data.classes = ("hamster", "mouse", "rabbit", "shrew", "squirrel")
    config.data.validation = 0
    config.data.crop_padding = 0
    config.data.flip = False  # Members fit more of their images in the same time.

    config.model.name = "bat_jax.models.fast_cnn:create"

    config.objective.name = "standard"

    config.train.epochs = 10
    config.train.batch_size = 64
    config.train.optimizer.learning_rate = 0.1
    config.train.schedule.name = "one_cycle"

    config.evaluation.batch_size = 500

    config.memorization.members = 50
    config.memorization.estimator = "margin"
    return config
