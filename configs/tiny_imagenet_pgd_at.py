"""PGD adversarial training (Madry et al., arXiv:1706.06083) on Tiny ImageNet.

    python launch.py --config=configs/tiny_imagenet_pgd_at.py

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs, the validation images as test set. Hardware:
one GPU or TPU. Expected: not measured.

Public anchor for PGD-AT (not measured here): ResNet-18, clean 46.8, AutoAttack 16.5.
"""

from ml_collections import ConfigDict

from bat_jax.settings import tiny_imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    return tiny_imagenet("pgd_at")
