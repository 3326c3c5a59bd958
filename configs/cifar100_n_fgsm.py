"""Fast adversarial training with N-FGSM (de Jorge et al., arXiv:2202.01181) on CIFAR-100.

    python launch.py --config=configs/cifar100_n_fgsm.py

One attack step instead of ten, 30 epochs. PreActResNet-18, Linf 8/255; docs/method.md, section 10.
A collapse is reported, and the last good state is kept. At another epsilon, set attack.step_size
too: it is epsilon. Hardware: one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_one_step


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar_one_step("cifar100", "pgd_at")
    config.attack.step_size = config.attack.epsilon
    # Noise beyond epsilon, without projection onto the ball, keeps training from collapsing.
    config.attack.start_radius = 2.0
    config.attack.project = False
    return config
