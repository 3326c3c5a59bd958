"""Standard training on CIFAR-100.

    python launch.py --config=configs/cifar100_standard.py

PreActResNet-18, 110 epochs on clean images, evaluated at Linf 8/255. Hardware: one GPU or TPU.
Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar("cifar100", "standard")
