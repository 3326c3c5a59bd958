"""PGD adversarial training (Madry et al., arXiv:1706.06083) on Tiny ImageNet.

    python launch.py --config=configs/tiny_imagenet_pgd_at.py

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs, the validation images as test set. Hardware:
one GPU or TPU. Expected: not measured.

No anchor with a source is known for PGD-AT. That of another method, HAT (not measured here):
PreActResNet-18, Linf 8/255, clean 52.60, robust 18.14 (README of github.com/imrahulr/hat).
"""

from ml_collections import ConfigDict

from bat_jax.settings import tiny_imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    return tiny_imagenet("pgd_at")
