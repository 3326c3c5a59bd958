"""MART (Wang et al., ICLR 2020) on Tiny ImageNet.

    python launch.py --config=configs/tiny_imagenet_mart.py

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs, the validation images as test set. Hardware:
one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import tiny_imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    return tiny_imagenet("mart")
