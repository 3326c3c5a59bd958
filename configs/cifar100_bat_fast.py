"""BAT on CIFAR-100, the fast recipe.

    python launch.py --config=configs/cifar100_bat_fast.py

Method: Xu et al., arXiv:2106.04794; the weight and the discrimination loss are reconstructed.
PreActResNet-18, Linf 8/255, PGD-10, 30 epochs of a one-cycle schedule, bfloat16, batch 512;
cifar100_bat is the long recipe. BAT's weights apply from epoch 15, the middle of the training.
Hardware: one GPU or TPU. Expected, on an NVIDIA H200 (one seed, docs/results/cifar100.md): 55.1 %
clean, 27.0 % PGD-20, 23.0 % AutoAttack on 1,000 images.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_fast


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar_fast("cifar100", "bat")
