"""PGD adversarial training with adversarial weight perturbation (AWP) on Tiny ImageNet.

    python launch.py --config=configs/tiny_imagenet_pgd_at_awp.py

AWP: Wu et al., arXiv:2004.05884; gamma 0.01 from the first epoch, as in its authors' runs on
CIFAR-100. All else is as in configs/tiny_imagenet_pgd_at.py, so that the two differ only in AWP; a
step costs 1.13 times as much as there.

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs, the validation images as test set. Hardware:
one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import tiny_imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    config = tiny_imagenet("pgd_at")
    config.objective.awp.gamma = 0.01
    return config
