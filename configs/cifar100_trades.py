"""TRADES (Zhang et al., arXiv:1901.08573) on CIFAR-100.

    python launch.py --config=configs/cifar100_trades.py

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs. Hardware: one GPU or TPU. Expected: not measured.

Public anchor for TRADES (not measured here): ResNet-18, clean 57.8, AutoAttack 25.2.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar("cifar100", "trades")
