"""The model as attacks see it: a function from images to logits."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

Images = Float[Array, "batch height width channels"]
HostImages = Float[np.ndarray, "batch height width channels"]
Logits = Float[Array, "batch classes"]
Labels = Int[Array, " batch"]
LogitsFn = Callable[[Images], Logits]
"""A model as attacks see it: from [0, 1] NHWC images to logits."""
RandomLogitsFn = Callable[[Images, Key[Array, "..."]], Logits]
"""A randomised model: from images and a key, which all of its draws derive from, to logits."""


def correct(logits: Logits, labels: Labels) -> Bool[Array, " batch"]:
    """Returns whether each image is classified correctly; logits with a NaN never are."""
    is_finite = ~jnp.any(jnp.isnan(logits), axis=-1)
    return (jnp.argmax(logits, axis=-1) == labels) & is_finite
