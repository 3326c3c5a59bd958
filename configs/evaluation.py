"""Evaluates a finished run again, with AutoAttack or with another epsilon, norm or attack.

    python launch.py --config=configs/evaluation.py --config.run=runs/digits_bat
    python launch.py --config=configs/evaluation.py --config.run=runs/cifar100_bat \
        --config.attack.norm=l2 --config.attack.epsilon=0.5 --config.evaluation.step_size=0.125

Results go to the run's subfolder evaluation-<norm>-<epsilon>. In place of a run, the page takes a
file of weights, such as those of a published checkpoint (docs/zoo.md), whose results go to
runs/<file>-<norm>-<epsilon>:

    python launch.py --config=configs/evaluation.py --config.weights=published.safetensors \
        --config.architecture=dm_wide_resnet --config.data.name=cifar10

AutoAttack (Croce & Hein, arXiv:2003.01690) saves its verdicts after every batch, and the same
command resumes it. With --config.evaluation.tolerance=0.003, its slow attacks stop once robust
accuracy is known to 0.3 points (docs/autoattack.md); the command without it continues to the exact
verdict.
"""

from ml_collections import ConfigDict

from bat_jax.config import evaluation


def get_config() -> ConfigDict:
    """Returns the config."""
    config = evaluation()
    config.evaluation.attacks = ("apgd-ce", "apgd-t", "fab-t", "square")
    return config
