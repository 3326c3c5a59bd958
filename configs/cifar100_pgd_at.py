"""PGD adversarial training (Madry et al., arXiv:1706.06083) on CIFAR-100.

    python launch.py --config=configs/cifar100_pgd_at.py

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs. Hardware: one GPU or TPU. Expected: not measured.

Public anchor for PGD-AT (not measured here): best clean 56.0, PGD-20 29.3, AutoAttack 25.2;
last 57.1 / 21.9 / 19.8 (PreActResNet-18, Linf 8/255).
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar("cifar100", "pgd_at")
