"""The paper's findings on Tiny ImageNet: PreActResNet-18, Linf 8/255, 110 epochs.

    python launch.py --config=configs/tiny_imagenet_findings.py --dry_run
    python launch.py --config=configs/tiny_imagenet_findings.py

--dry_run prints the cost, which is large: 1,000 members estimate memorization before the runs.
docs/findings.md explains the runs and the verdicts. The same command resumes after an
interruption. Hardware: a slice of GPUs or TPUs. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar_findings("tiny_imagenet")
    config.model.stem = "tiny_imagenet"
    return config
