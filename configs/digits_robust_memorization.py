"""Memorization in adversarial training on digits, on clean and on attacked images: 400 members.

    python launch.py --config=configs/digits_robust_memorization.py

The members of digits_memorization.py, trained by PGD-AT under the attack of digits_findings.py
(Linf, eps 0.1), are scored twice: on clean images and under PGD-20. `memorization.npz` has the
estimates from clean images, `robust_memorization.npz` those from attacked ones, and report.html
compares them. Hardware: a CPU core, 2 s per member. Expected: docs/results/robust_memorization.md.
"""

from ml_collections import ConfigDict

from bat_jax.settings import small_memorization


def get_config() -> ConfigDict:
    """Returns the config."""
    config = small_memorization("digits")
    config.model.width = 8

    config.objective.name = "pgd_at"

    config.attack.epsilon = 0.1
    config.attack.step_size = 0.03
    config.attack.num_steps = 5
    # A loop compiles faster than unrolled steps, and these convolutions are small.
    config.programs.unroll = False

    config.train.epochs = 24
    config.train.batch_size = 32

    config.evaluation.step_size = 0.0125
    config.evaluation.batch_size = 450

    config.memorization.members = 400
    config.memorization.inputs = "both"
    config.memorization.estimator = "margin"
    # Of images of other classes too: under attack, a training image may harm them.
    config.memorization.influence = "full"
    return config
