"""TRADES (Zhang et al., arXiv:1901.08573) on CIFAR-100, the fast recipe.

    python launch.py --config=configs/cifar100_trades_fast.py

PreActResNet-18, Linf 8/255, PGD-10, 30 epochs of a one-cycle schedule, bfloat16, batch 512;
cifar100_trades is the long recipe. Hardware: one GPU or TPU. Expected: not measured.

configs/cifar100_trades.py quotes public anchors for longer recipes.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_fast


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar_fast("cifar100", "trades")
