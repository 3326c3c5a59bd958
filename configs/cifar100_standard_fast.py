"""Standard training on CIFAR-100, the fast recipe.

    python launch.py --config=configs/cifar100_standard_fast.py

PreActResNet-18, 30 epochs of a one-cycle schedule on clean images, bfloat16, batch 512, evaluated
at Linf 8/255; cifar100_standard is the long recipe. Hardware: one GPU or TPU. Expected: not
measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_fast


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar_fast("cifar100", "standard")
