"""PGD adversarial training (Madry et al., arXiv:1706.06083) on ImageNet at 224 pixels.

    python launch.py --config=configs/imagenet_pgd_at.py --config.data.name=folder:/data/imagenet

reads ILSVRC 2012 there, train/<wnid>/*.JPEG and val/<wnid>/*.JPEG (docs/data.md has another
layout), decodes it once into 187 GiB, and trains from the host. The validation images are the test
set. ResNet-50, Linf 4/255, PGD-3, 90 epochs: the recipe of Salman et al., arXiv:2007.08489.
For 64 pixels, add

    --config.data.side=64 --config.model.stem=tiny_imagenet

Hardware: GPUs or TPUs, with 200 GiB of disk. Expected: not measured.

Public anchors for PGD-AT (not measured here), ResNet-50, Linf 4/255, 5,000 images, in RobustBench's
model_info: clean 64.02, AutoAttack 34.96 (Salman et al., arXiv:2007.08489); clean 62.56, AutoAttack
29.22 (Engstrom et al., github.com/MadryLab/robustness).
"""

from ml_collections import ConfigDict

from bat_jax.settings import imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    return imagenet("pgd_at")
