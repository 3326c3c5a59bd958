"""The findings of the paper on Tiny ImageNet: PreActResNet-18, Linf 8/255, 110 epochs.

    python launch.py --config=configs/tiny_imagenet_findings.py --dry_run
    python launch.py --config=configs/tiny_imagenet_findings.py

--dry_run prints the cost, which is large: 1,000 members estimate memorization, then every run is
made. docs/findings.md says what is run and how it is judged. The same command goes on after an
interruption. Hardware: a slice of GPUs or TPUs. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar_findings("tiny_imagenet")
    config.model.stem = "tiny_imagenet"
    return config
