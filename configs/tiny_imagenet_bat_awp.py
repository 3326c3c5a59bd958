"""BAT with adversarial weight perturbation (AWP) on Tiny ImageNet.

    python launch.py --config=configs/tiny_imagenet_bat_awp.py

BAT: Xu et al., arXiv:2106.04794; the weight and the discrimination loss are reconstructed. AWP: Wu
et al., arXiv:2004.05884; it ascends the whole objective of BAT. No publication combines the two:
gamma is that of PGD-AT, 0.01. All else is as in configs/tiny_imagenet_bat.py.

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs, the validation images as test set. Hardware:
one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import tiny_imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    config = tiny_imagenet("bat")
    config.objective.awp.gamma = 0.01
    return config
