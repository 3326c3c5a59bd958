"""Fast adversarial training with GradAlign (Andriushchenko & Flammarion, 2020) on CIFAR-100.

    python launch.py --config=configs/cifar100_grad_align.py

One attack step instead of ten, 30 epochs. PreActResNet-18, Linf 8/255; docs/method.md, section 10.
A collapse is reported, and the last good state is kept. Hardware: one GPU or TPU. Expected: not
measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_one_step


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar_one_step("cifar100", "grad_align")
    config.attack.step_size = config.attack.epsilon
    config.attack.random_start = False
    config.train.optimizer.learning_rate = 0.3
    config.train.schedule.rise = 0.4
    # For epsilon 8/255; 2 for 16/255.
    config.objective.grad_align.lam = 0.2
    return config
