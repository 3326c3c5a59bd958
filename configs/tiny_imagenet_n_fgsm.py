"""Fast adversarial training with N-FGSM (de Jorge et al., arXiv:2202.01181) on Tiny ImageNet.

    python launch.py --config=configs/tiny_imagenet_n_fgsm.py

One attack step instead of ten, 30 epochs, as in configs/cifar100_n_fgsm.py. PreActResNet-18, Linf
8/255, the validation images as test set; docs/method.md, section 10. A collapse is reported, and
the last good state is kept. Hardware: one GPU or TPU. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar_one_step


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar_one_step("tiny_imagenet", "pgd_at")
    config.model.stem = "tiny_imagenet"
    config.attack.step_size = config.attack.epsilon
    # Noise beyond epsilon, without projection onto the ball, keeps training from collapsing.
    config.attack.start_radius = 2.0
    config.attack.project = False
    return config
