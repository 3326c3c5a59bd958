"""TRADES (Zhang et al., arXiv:1901.08573) on CIFAR-100.

    python launch.py --config=configs/cifar100_trades.py

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs. Hardware: one GPU or TPU. Expected: not measured.

Public anchors for TRADES (not measured here), ResNet-18, Linf 8/255: at the epoch that is best on
the test set, clean 54.77, PGD-20 27.90 (README of
github.com/LetheSec/Adversarial_Training_Pytorch); after 76 epochs, clean 54.95, AutoAttack 21.70
(TRADES/README.md of github.com/MTandHJ/PyTorch-Robust).
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar("cifar100", "trades")
