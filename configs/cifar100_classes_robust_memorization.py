"""Memorization in adversarial training on five classes of CIFAR-100, clean and attacked.

    python launch.py --config=configs/cifar100_classes_robust_memorization.py \
        --config.data.path=cifar-100-binary.tar.gz

The classes and the network of cifar100_classes_memorization.py, trained by PGD-AT (Linf, eps 8/255)
for 40 epochs on 70 % of 2,500 images, so that members can fit more of them under attack, and scored
on these and on the 500 test images, clean and under PGD-10. Hardware: one CPU core, 52 minutes.
Expected: docs/results/robust_memorization.md.
"""

from ml_collections import ConfigDict

from bat_jax.config import default


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default()
    config.job = "memorization"
    config.data.name = "cifar100"
    config.data.classes = ("hamster", "mouse", "rabbit", "shrew", "squirrel")
    config.data.validation = 0
    config.data.crop_padding = 0
    config.data.flip = False  # Members fit more of their images in the same time.

    config.model.name = "bat_jax.models.fast_cnn:create"

    config.objective.name = "pgd_at"

    config.attack.epsilon = 8 / 255
    config.attack.step_size = 4 / 255
    config.attack.num_steps = 3
    config.attack.warmup_epochs = 8.0

    config.train.epochs = 40
    config.train.batch_size = 64
    config.train.optimizer.learning_rate = 0.1
    config.train.schedule.name = "one_cycle"

    config.evaluation.step_size = 2 / 255
    config.evaluation.num_steps = 10
    config.evaluation.batch_size = 500

    config.memorization.members = 50
    config.memorization.inputs = "both"
    config.memorization.estimator = "margin"
    # Of images of other classes too: under attack, a training image may harm them.
    config.memorization.influence = "full"
    return config
