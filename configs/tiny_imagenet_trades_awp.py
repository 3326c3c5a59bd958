"""TRADES with adversarial weight perturbation (AWP) on Tiny ImageNet.

    python launch.py --config=configs/tiny_imagenet_trades_awp.py

AWP: Wu et al., arXiv:2004.05884; gamma 0.005 after nine epochs without AWP, as in its authors' runs
on CIFAR. All else is as in configs/tiny_imagenet_trades.py; a step costs 1.22 times as much as
there, because both passes forward the clean images too.

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs, the validation images as test set. Hardware:
one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import tiny_imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    config = tiny_imagenet("trades")
    config.objective.awp.gamma = 0.005
    config.objective.awp.start_epoch = 9.0
    return config
