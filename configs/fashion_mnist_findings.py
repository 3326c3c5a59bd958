"""The findings of the paper on a little of Fashion-MNIST, where memorization can occur.

    python launch.py --config=configs/fashion_mnist_findings.py --dry_run
    python launch.py --config=configs/fashion_mnist_findings.py

2,500 training images, Linf eps 0.05, 80 epochs of small_cnn with width 24 and no augmentation: few
images, a small eps and a long training, so that adversarial training can fit its training set. The
report says by rule whether it did. docs/findings.md says what is run and how it is judged. The same
command goes on after an interruption. Hardware: two CPU cores. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.config import findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = findings()
    config.data.name = "fashion_mnist"
    config.data.validation = 1000
    config.data.subset = 2500
    config.data.crop_padding = 0
    config.data.flip = False

    config.model.name = "small_cnn"
    config.model.width = 24

    config.attack.epsilon = 0.05
    config.attack.step_size = 0.0125
    config.attack.num_steps = 7

    config.train.epochs = 80
    config.train.batch_size = 100
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.boundaries = (50.0, 70.0)

    config.evaluation.step_size = 0.00625
    config.evaluation.batch_size = 500
    config.evaluation.losses = ("cross_entropy",)
    # AutoAttack takes most of an evaluation: on the same 1,000 test images in every run.
    config.evaluation.subset = 1000
    config.evaluation.track.images = 500
    config.evaluation.track.num_steps = 7
    config.checkpoint.every_epochs = 4

    # 3,500 images: those trained on and those held out.
    config.memorization.members = 400
    config.findings.ensemble.train.epochs = 12
    config.findings.ensemble.train.optimizer.learning_rate = 0.05
    return config
