"""The paper's findings on CIFAR-100, in its setting: PreActResNet-18, Linf 8/255, 110 epochs.

    python launch.py --config=configs/cifar100_findings.py --dry_run
    python launch.py --config=configs/cifar100_findings.py \
        --config.memorization.estimates=data/cifar100_infl_matrix.npz

--dry_run prints the cost, which is large. The second command uses the estimates that Feldman &
Zhang released; without that field, an ensemble of 1,000 members first makes estimates.
docs/findings.md explains the runs and the verdicts. The same command resumes after an
interruption. Hardware: a slice of GPUs or TPUs. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_findings


def get_config() -> ConfigDict:
    """Returns the config."""
    return cifar_findings("cifar100")
