"""The WRN of Gowal et al., Uncovering the Limits of Adversarial Training.

Sources: arXiv:2010.03593 and RobustBench's `DMWideResNet`. It is `WideResNet` with SiLU and
TensorFlow's padding.
"""

import flax.linen as nn

from bat_jax.models.blocks import Padding
from bat_jax.models.layers import Activation
from bat_jax.models.wide_resnet import WideResNet


class DMWideResNet(WideResNet):
    """`WideResNet` with other defaults."""

    activation: Activation = nn.silu
    padding: Padding = "same"
