"""BAT on CIFAR-100, in the paper's setting.

    python launch.py --config=configs/cifar100_bat.py

Method: Xu et al., arXiv:2106.04794; the weight and the discrimination loss are reconstructed.
PreActResNet-18, Linf 8/255, PGD-10, 110 epochs. Hardware: one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar("cifar100", "bat")
