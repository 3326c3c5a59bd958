"""Memorization and influence on scikit-learn's handwritten digits: 1,000 members.

    python launch.py --config=configs/digits_memorization.py

Method: Feldman & Zhang, arXiv:2008.03703; each member is trained on a random 70 % of the 1,348
training images. Hardware: two CPU cores. Expected: docs/results/memorization.md. To add members to
the finished run, repeat the command with --config.memorization.members=2000.
"""

from ml_collections import ConfigDict

from bat_jax.config import default


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default()
    config.job = "memorization"
    config.data.name = "digits"
    config.data.validation = 0
    config.data.crop_padding = 0
    config.data.flip = False

    config.model.name = "small_cnn"
    config.model.width = 8

    config.objective.name = "standard"

    # Enough for members to fit even wrong labels: with 12, flipped labels were harder to detect.
    config.train.epochs = 24
    config.train.batch_size = 32
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.name = "one_cycle"

    config.evaluation.batch_size = 450

    config.memorization.members = 1000
    return config
