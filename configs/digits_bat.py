"""BAT on scikit-learn's handwritten digits of 8x8 pixels: the demo, a minute on two CPU cores.

    python launch.py --config=configs/digits_bat.py

This checks that everything works; it does not reproduce results of the paper, because the images
are tiny and the attack is Linf with eps = 0.2. Expected: the row in README.md, 99 % clean and 75 %
under PGD-20. To see the effect of adversarial training, train without it:

    python launch.py --config=configs/digits_bat.py --config.objective.name=standard \
        --config.evaluation.select_by=clean --workdir=runs/digits_standard
"""

from ml_collections import ConfigDict

from bat_jax.config import default


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default()
    config.data.name = "digits"
    config.data.validation = 147
    config.data.crop_padding = 0
    config.data.flip = False  # A mirrored digit is another figure.

    config.model.name = "small_cnn"

    config.objective.name = "bat"

    config.attack.epsilon = 0.2
    config.attack.step_size = 0.05
    config.attack.num_steps = 10

    config.train.epochs = 60
    config.train.batch_size = 64
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.boundaries = (40.0, 52.0)

    config.evaluation.step_size = 0.025
    config.evaluation.batch_size = 152
    # Keeps the demo short; configs/evaluation.py runs AutoAttack on the finished run.
    config.evaluation.attacks = ()
    config.checkpoint.every_epochs = 5
    return config
