"""Memorization and influence on CIFAR-100: 4,000 members.

    python launch.py --config=configs/cifar100_memorization.py

Method: Feldman & Zhang, arXiv:2008.03703, whose released values come from 4,000 ResNet-50 models
trained on 70 % of the images; here ResNet-18, 50 epochs of a one-cycle schedule. Hardware:
accelerators. `--dry_run` prints the FLOPs. Expected: not measured; compare with the released
cifar100_infl_matrix.npz (docs/memorization.md).
"""

from ml_collections import ConfigDict

from bat_jax.settings import memorization


def get_config() -> ConfigDict:
    """Returns the config."""
    return memorization("cifar100")
