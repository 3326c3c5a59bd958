"""GAIRAT (Zhang et al., arXiv:2010.01736) on Fashion-MNIST.

    python launch.py --config=configs/fashion_mnist_gairat.py

small_cnn, the full 60,000 images, Linf eps 0.1, 6 epochs. Hardware: two CPU cores. Expected: not
measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist


def get_config() -> ConfigDict:
    """Returns the config."""
    return fashion_mnist("gairat")
