"""The paper's findings on scikit-learn's digits: seven minutes on two CPU cores.

    python launch.py --config=configs/digits_findings.py

This checks that the whole pipeline works; it does not test the paper: 8x8 images, a small network,
short training runs, PGD only. docs/findings.md explains the runs and the verdicts.

Expected (two CPU cores of an AMD EPYC, 2026-11-23): 300 members and 36 runs in 7 min 1 s; PGD-AT
reaches 96.8 % on training and 84.9 % on test images under PGD-20 (3 seeds); with 12 atypical test
images, (a), (b) and (c) stay undecided.
"""

from ml_collections import ConfigDict

from bat_jax.config import findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = findings()
    config.data.name = "digits"
    config.data.validation = 147
    config.data.crop_padding = 0
    config.data.flip = False  # A mirrored digit is another figure.

    config.model.name = "small_cnn"
    config.model.width = 8

    config.attack.epsilon = 0.1
    config.attack.step_size = 0.03
    config.attack.num_steps = 5
    # A loop compiles faster than unrolled steps, and these convolutions are small.
    config.programs.unroll = False

    config.train.epochs = 24
    config.train.batch_size = 64
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.boundaries = (16.0, 21.0)

    config.evaluation.step_size = 0.0125
    config.evaluation.batch_size = 152
    config.evaluation.attacks = ()
    config.evaluation.track.images = 200
    config.evaluation.track.num_steps = 20
    config.checkpoint.every_epochs = 4

    config.findings.ensemble.train.epochs = 12
    config.findings.ensemble.train.optimizer.learning_rate = 0.05
    config.memorization.members = 300
    config.findings.variants = ConfigDict(
        {"weight_only": {"beta_dl": 0.0}, "discrimination_only": {"alpha": 0.0}}
    )
    return config
