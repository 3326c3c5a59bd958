"""Standard training on Fashion-MNIST.

    python launch.py --config=configs/fashion_mnist_standard.py

small_cnn, 6 epochs on the full 60,000 images, clean, evaluated at Linf eps 0.1. Hardware: two CPU
cores. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist


def get_config() -> ConfigDict:
    """Returns the config."""
    return fashion_mnist("standard")
