"""The PreActResNet of Rebuffi et al., Data Augmentation Can Improve Robustness.

Sources: arXiv:2111.05328 and RobustBench's `DMPreActResNet`. It is `PreActResNet` with SiLU, with
shortcuts of 3x3 convolutions that take the raw input, and with TensorFlow's padding.
"""

import flax.linen as nn

from bat_jax.models.blocks import Padding, Shortcut
from bat_jax.models.layers import Activation
from bat_jax.models.preact_resnet import PreActResNet


class DMPreActResNet(PreActResNet):
    """`PreActResNet` with other defaults."""

    activation: Activation = nn.silu
    shortcut: Shortcut = "raw"
    shortcut_kernel: int = 3
    padding: Padding = "same"
