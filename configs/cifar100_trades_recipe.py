"""TRADES on CIFAR-100 with the recipe of robust models that are trained on generated images.

    python launch.py --config=configs/cifar100_trades_recipe.py --config.data.extra=1m.npz

Recipe: Wang et al., arXiv:2302.04638, with beta 5; docs/method.md, section 9. The file holds a
million generated images (docs/method.md, "Extra data"); the README of the authors'
github.com/wzekai99/DM-Improves-AT links to one. Without --config.data.extra, training uses the
images of CIFAR-100 alone. CutMix (Rebuffi et al., arXiv:2103.01946) takes the place of label
smoothing, as in the authors' code:

    --config.data.cutmix=true --config.train.label_smoothing=0

WRN-28-10 with SiLU, Linf 8/255, PGD-10, 400 epochs with batches of 512. Hardware: several GPUs or a
TPU slice. Expected: not measured.

Public anchors (not measured here), WRN-28-10, Linf 8/255, in RobustBench's model_info: clean 72.58,
AutoAttack 38.83 (Wang et al.); clean 62.41, AutoAttack 32.06 (Rebuffi et al., with CutMix).
"""

from ml_collections import ConfigDict

from bat_jax.settings import cifar, recipe


def get_config() -> ConfigDict:
    """Returns the config."""
    config = recipe(cifar("cifar100", "trades"))
    config.objective.trades.beta = 5.0
    return config
