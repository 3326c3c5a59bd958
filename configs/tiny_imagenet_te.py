"""PGD adversarial training with temporal ensembling (TE) on Tiny ImageNet.

    python launch.py --config=configs/tiny_imagenet_te.py

Dong et al., arXiv:2106.01606: from epoch 90 on, the predictions for attacked images are kept close
to a running average of the clean predictions. The schedule is the authors': 200 epochs, learning
rate divided by 10 at epochs 100 and 150; w rises to 300 between epochs 90 and 150.

The authors' regulariser is a mean over classes, and they chose w = 300 for 10 classes: it adds
30 ||q - t||^2 per example there, but 1.5 ||q - t||^2 for 200 classes. To add 30 ||q - t||^2 here
too: --config.objective.te.over_classes=sum --config.objective.te.weight=30. To regularise TRADES:
--config.objective.te.base=trades

PreActResNet-18, Linf 8/255, PGD-10, the validation images as test set. Hardware: one GPU or TPU;
the averages take 79 MB. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import tiny_imagenet


def get_config() -> ConfigDict:
    """Returns the config."""
    config = tiny_imagenet("te")
    config.train.epochs = 200
    config.train.schedule.boundaries = (100.0, 150.0)
    return config
