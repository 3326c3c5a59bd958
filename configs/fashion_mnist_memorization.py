"""Memorization and influence on 10,000 images of Fashion-MNIST: 200 members.

    python launch.py --config=configs/fashion_mnist_memorization.py

Method: Feldman & Zhang, arXiv:2008.03703; each member is trained on a random 70 % of 10,000
training images, drawn by the seed. Hardware: two CPU cores. Expected: 46 minutes; 1,878 of the
10,000 images above 0.15, rank correlation of two halves 0.905. So few members do not reliably
identify atypical test images (docs/memorization.md). To add members to the finished run, repeat the
command with --config.memorization.members=400.
"""

from ml_collections import ConfigDict

from bat_jax.settings import small_memorization


def get_config() -> ConfigDict:
    """Returns the config."""
    config = small_memorization("fashion_mnist")
    config.data.subset = 10_000

    config.train.epochs = 12
    config.train.batch_size = 64

    config.evaluation.batch_size = 500

    config.memorization.members = 200
    return config
