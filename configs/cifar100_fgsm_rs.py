"""Fast adversarial training with FGSM-RS (Wong et al., arXiv:2001.03994) on CIFAR-100.

    python launch.py --config=configs/cifar100_fgsm_rs.py

One attack step instead of ten, 30 epochs. PreActResNet-18, Linf 8/255; docs/method.md, section 10.
A collapse is reported, and the last good state is kept. At another epsilon, set attack.step_size
too: it is 1.25 epsilon. Hardware: one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_one_step


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar_one_step("cifar100", "pgd_at")
    config.attack.step_size = 1.25 * config.attack.epsilon
    return config
