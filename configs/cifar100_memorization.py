"""Memorization and influence on CIFAR-100: 4,000 members.

    python launch.py --config=configs/cifar100_memorization.py

Method: Feldman & Zhang, arXiv:2008.03703, whose released values come from 4,000 ResNet-50 at 70 %;
here ResNet-18, 50 epochs of a one-cycle schedule. Hardware: accelerators. `--dry_run` prints the
FLOPs. Expected: not measured; compare with the released cifar100_infl_matrix.npz (docs/
memorization.md).
"""

from ml_collections import ConfigDict

from bat_jax.config import default


def get_config() -> ConfigDict:
    """Returns the config."""
    return large("cifar100")


def large(name: str) -> ConfigDict:
    """Returns the ensemble that CIFAR-100 and Tiny ImageNet share."""
    config = default()
    config.job = "memorization"
    config.data.name = name
    config.data.validation = 0

    config.model.name = "resnet18"
    config.model.dtype = "bfloat16"

    config.objective.name = "standard"

    config.train.epochs = 50
    config.train.batch_size = 256
    config.train.optimizer.learning_rate = 0.2
    config.train.schedule.name = "one_cycle"

    config.evaluation.batch_size = 1000

    config.memorization.members = 4000
    return config
