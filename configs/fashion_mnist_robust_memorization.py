"""Memorization in adversarial training on 1,000 images of Fashion-MNIST, clean and attacked.

    python launch.py --config=configs/fashion_mnist_robust_memorization.py

A small_cnn of width 8 trained by PGD-AT under the Linf attack of fashion_mnist_findings.py (eps
8/255), on 70 % of 1,000 training images, scored on these and on 1,000 test images, clean and under
PGD-10. Hardware: a CPU core, 12 s per member. Expected: docs/results/robust_memorization.md.
"""

from ml_collections import ConfigDict

from bat_jax.settings import small_memorization


def get_config() -> ConfigDict:
    """Returns the config."""
    config = small_memorization("fashion_mnist")
    config.data.subset = 1000

    config.model.width = 8

    config.objective.name = "pgd_at"

    config.attack.epsilon = 8 / 255
    config.attack.step_size = 4 / 255
    config.attack.num_steps = 3
    config.attack.warmup_epochs = 5.0
    config.programs.unroll = False

    config.train.epochs = 25
    config.train.batch_size = 50

    config.evaluation.step_size = 2 / 255
    config.evaluation.num_steps = 10
    config.evaluation.batch_size = 500

    config.memorization.members = 50
    config.memorization.inputs = "both"
    config.memorization.estimator = "margin"
    config.memorization.influence = "full"
    config.memorization.test_images = 1000
    return config
