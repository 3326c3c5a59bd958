"""Memorization and influence on Tiny ImageNet: 4,000 members.

    python launch.py --config=configs/tiny_imagenet_memorization.py

Method: Feldman & Zhang, arXiv:2008.03703; the ensemble of cifar100_memorization.py with the stem
for 64x64 images. Hardware: accelerators. `--dry_run` prints the FLOPs. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import memorization


def get_config() -> ConfigDict:
    """Returns the config."""
    config = memorization("tiny_imagenet")
    config.model.stem = "tiny_imagenet"
    return config
