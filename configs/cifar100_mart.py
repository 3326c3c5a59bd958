"""MART (Wang et al., ICLR 2020) on CIFAR-100.

    python launch.py --config=configs/cifar100_mart.py

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs. Hardware: one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar("cifar100", "mart")
