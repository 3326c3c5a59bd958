"""PGD adversarial training with adversarial weight perturbation (AWP) on CIFAR-100.

    python launch.py --config=configs/cifar100_pgd_at_awp.py

AWP: Wu et al., arXiv:2004.05884; gamma 0.01 from the first epoch, as in its authors' runs. All
else is as in configs/cifar100_pgd_at.py, so that the two differ only in AWP; a step costs 1.13
times as much as there. The authors' schedule is 200 epochs with decays at 100 and 150:
--config.train.epochs=200 --config.train.schedule.boundaries="(100.0, 150.0)"

PreActResNet-18, Linf 8/255, PGD-10, 110 epochs. Hardware: one GPU or TPU. Expected: not measured.

Public anchors (not measured here), PreActResNet-18, Linf 8/255, 200 epochs: clean 53.81, AutoAttack
25.34 (auto_attacks/README.md of the authors' github.com/csdongxian/AWP); under PGD-20, in the
authors' log, best clean 54.2, robust 30.7 and last 54.2 / 30.1.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar("cifar100", "pgd_at")
    config.objective.awp.gamma = 0.01
    return config
