"""PGD adversarial training (Madry et al., arXiv:1706.06083) on CIFAR-100, the fast recipe.

    python launch.py --config=configs/cifar100_pgd_at_fast.py

PreActResNet-18, Linf 8/255, PGD-10, 30 epochs of a one-cycle schedule, bfloat16, batch 512;
cifar100_pgd_at is the long recipe. Hardware: one GPU or TPU. Expected, on an NVIDIA H200 (one seed,
docs/results/cifar100.md): 55.1 % clean, 26.3 % PGD-20, 22.9 % AutoAttack on 1,000 images.

configs/cifar100_pgd_at.py quotes public anchors for longer recipes.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_fast


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar_fast("cifar100", "pgd_at")
