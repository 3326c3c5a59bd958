"""BAT on ten classes of CIFAR-100.

    python launch.py --config=configs/cifar100_small_bat.py
    python launch.py --config=configs/evaluation.py --config.run=runs/cifar100_small_bat \
        --config.evaluation.subset=100 --config.checkpoints="('best',)"

Method: Xu et al., arXiv:2106.04794; the weight and the discrimination loss are reconstructed.
PreActResNet-18 of width 16, Linf 8/255, PGD-7, 10 epochs of 4,500 images with one cycle. The second
command runs AutoAttack. Hardware: a CPU core, 23 minutes for the first. Expected:
docs/results/cifar100_small.md.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar100_small


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar100_small("bat")
