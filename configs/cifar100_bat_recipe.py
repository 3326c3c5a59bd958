"""BAT on CIFAR-100 with the recipe of robust models that are trained on generated images.

    python launch.py --config=configs/cifar100_bat_recipe.py --config.data.extra=1m.npz

BAT: Xu et al., arXiv:2106.04794; the weight and the discrimination loss are reconstructed. The
weight applies from epoch 200 on. Recipe: that of configs/cifar100_trades_recipe.py, where the file
of generated images is explained; no publication combines the two. BAT excludes CutMix, whose images
have several labels. Without --config.data.extra, training uses the images of CIFAR-100 alone.

WRN-28-10 with SiLU, Linf 8/255, PGD-10, 400 epochs with batches of 512. Hardware: several GPUs or a
TPU slice. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar, recipe


def get_config() -> ConfigDict:
    """Returns the config."""
    return recipe(cifar("cifar100", "bat"))
