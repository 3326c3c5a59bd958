"""BAT on CIFAR-100 with a wide residual network.

    python launch.py --config=configs/cifar100_bat_wrn.py

Method: Xu et al., arXiv:2106.04794; the weight and the discrimination loss are reconstructed.
WRN-28-10, Linf 8/255, PGD-10, 110 epochs. Hardware: several GPUs or a TPU slice. Expected: not
measured. WRN-34-10: --config.model.name=wide_resnet34_10
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar


def get_config() -> ConfigDict:
    """Returns the config."""
    config = cifar("cifar100", "bat")
    config.model.name = "wide_resnet28_10"
    return config
