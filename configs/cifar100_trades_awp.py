"""TRADES with adversarial weight perturbation (AWP) on CIFAR-100.

    python launch.py --config=configs/cifar100_trades_awp.py

AWP: Wu et al., arXiv:2004.05884; gamma 0.005 after nine epochs without AWP, as in its authors'
runs. All else is as in configs/cifar100_trades.py; a step costs 1.22 times as much as there,
because both passes forward the clean images too.

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs. Hardware: one GPU or TPU. Expected: not measured.

Public anchor (not measured here), ResNet-18, Linf 8/255, at the epoch that is best on the test set:
clean 59.06, PGD-20 31.77 (README of github.com/LetheSec/Adversarial_Training_Pytorch).
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar("cifar100", "trades")
    config.objective.awp.gamma = 0.005
    config.objective.awp.start_epoch = 9.0
    return config
