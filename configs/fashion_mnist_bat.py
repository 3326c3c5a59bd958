"""BAT on Fashion-MNIST.

    python launch.py --config=configs/fashion_mnist_bat.py

Method: Xu et al., arXiv:2106.04794; the weight and the discrimination loss are reconstructed.
small_cnn, the full 60,000 images, Linf eps 0.1, 6 epochs. Hardware: two CPU cores. Expected:
the row in README.md.
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist


def get_config() -> ConfigDict:
    """Returns the config."""
    return fashion_mnist("bat")
