"""PGD adversarial training (Madry et al., arXiv:1706.06083) on CIFAR-100.

    python launch.py --config=configs/cifar100_pgd_at.py

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs. Hardware: one GPU or TPU. Expected: not measured.

Public anchors for PGD-AT (not measured here), Linf 8/255: ResNet-18 at the epoch that is best on
the test set, clean 56.76, PGD-20 28.91 (README of
github.com/LetheSec/Adversarial_Training_Pytorch); PreActResNet-18, clean 53.83, AutoAttack 18.95
(Rice et al., arXiv:2002.11569, in RobustBench's model_info).
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar("cifar100", "pgd_at")
