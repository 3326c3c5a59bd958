"""PGD adversarial training (Madry et al., arXiv:1706.06083) on Fashion-MNIST.

    python launch.py --config=configs/fashion_mnist_pgd_at.py

small_cnn, the full 60,000 images, Linf eps 0.1, 6 epochs. Hardware: two CPU cores. Expected:
the row in README.md.
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist


def get_config() -> ConfigDict:
    """Returns the config."""
    return fashion_mnist("pgd_at")
