"""Memorization and influence on scikit-learn's handwritten digits: 1,000 members.

    python launch.py --config=configs/digits_memorization.py

Method: Feldman & Zhang, arXiv:2008.03703; each member is trained on a random 70 % of the 1,348
training images. Hardware: two CPU cores. Expected: docs/results/memorization.md. To add members to
the finished run, repeat the command with --config.memorization.members=2000.
"""

from ml_collections import ConfigDict

from bat_jax.settings import small_memorization


def get_config() -> ConfigDict:
    """Returns the config."""
    config = small_memorization("digits")
    config.model.width = 8

    # Enough for members to fit even wrong labels: with 12, flipped labels were harder to detect.
    config.train.epochs = 24
    config.train.batch_size = 32

    config.evaluation.batch_size = 450

    config.memorization.members = 1000
    return config
