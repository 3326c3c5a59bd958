"""BAT on ImageNet at 224 pixels.

    python launch.py --config=configs/imagenet_bat.py --config.data.name=folder:/data/imagenet

reads ILSVRC 2012 there, train/<wnid>/*.JPEG and val/<wnid>/*.JPEG (docs/data.md has another
layout), decodes it once into 187 GiB, and trains from the host. The validation images are the test
set. ResNet-50, Linf 4/255, PGD-3, 90 epochs: the recipe of Salman et al., arXiv:2007.08489.
For 64 pixels, add

    --config.data.side=64 --config.model.stem=tiny_imagenet

Method: Xu et al., arXiv:2106.04794, whose paper has no ImageNet; the weight and the discrimination
loss are reconstructed. Hardware: GPUs or TPUs, with 200 GiB of disk. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    return imagenet("bat")
