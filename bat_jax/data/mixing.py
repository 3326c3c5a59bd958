"""CutMix: a box of every image is replaced by the same box of another one.

Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
Features, arXiv:1905.04899; for adversarial training Rebuffi et al., Fixing Data Augmentation to
Improve Adversarial Robustness, arXiv:2103.01946.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Images = Float[Array, "batch height width channels"]
Targets = Float[Array, "batch classes"]


class Mix(NamedTuple):
    """One draw for a whole batch.

    Attributes:
      center: row and column of the box's center.
      size: the side of the box; it is clipped to the image.
      permutation: for each place of the batch, the place whose box it receives.
    """

    center: Int[Array, "2"]
    size: Int[Array, ""]
    permutation: Int[Array, " batch"]


def draw(key: Key[Array, ""], batch_size: int, height: int, width: int) -> Mix:
    """Draws a box of side int(height sqrt(1 - lambda)), lambda ~ Beta(1, 1), and a permutation.

    The center is uniform over the pixels, so that boxes at the border are smaller.
    """
    size_key, row_key, column_key, order_key = jax.random.split(key, 4)
    # Beta(1, 1) is the uniform distribution.
    side = height * jnp.sqrt(1.0 - jax.random.uniform(size_key))
    row = jax.random.randint(row_key, (), 0, height)
    column = jax.random.randint(column_key, (), 0, width)
    permutation = jax.random.permutation(order_key, batch_size)
    return Mix(jnp.stack([row, column]), side.astype(jnp.int32), permutation)


def box(
    center: Int[Array, "2"], size: Int[Array, ""], height: int, width: int
) -> Bool[Array, "height width"]:
    """Returns which pixels are in rows and columns c - size // 2 to c + size // 2 (exclusive)."""
    half = size // 2
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= center[0] - half) & (rows < center[0] + half)
    in_columns = (columns >= center[1] - half) & (columns < center[1] + half)
    return in_rows[:, None] & in_columns[None, :]


def mixed(
    images: Images,
    others: Images,
    targets: Targets,
    other_targets: Targets,
    *,
    center: Int[Array, "2"],
    size: Int[Array, ""],
) -> tuple[Images, Targets]:
    """Returns images with the box of `others`, and targets mixed by the areas.

        targets <- lambda targets + (1 - lambda) other_targets,   lambda = 1 - area / (height width)

    Args:
      images: shape `[batch, height, width, channels]`.
      others: where the box of each image comes from.
      targets: class probabilities of the images.
      other_targets: class probabilities of the others.
      center: row and column of the box's center.
      size: the side of the box.
    """
    inside = box(center, size, *images.shape[1:3])
    kept = 1.0 - jnp.mean(inside.astype(targets.dtype))
    images = jnp.where(inside[None, :, :, None], others, images)
    return images, kept * targets + (1.0 - kept) * other_targets


def cutmix(
    images: Images,
    targets: Targets,
    *,
    center: Int[Array, "2"],
    size: Int[Array, ""],
    permutation: Int[Array, " batch"],
) -> tuple[Images, Targets]:
    """Returns a batch in which each image has the box of another one, and the mixed targets.

    Args:
      images: shape `[batch, height, width, channels]`.
      targets: class probabilities, shape `[batch, classes]`.
      center: row and column of the box's center.
      size: the side of the box, which is clipped to the image.
      permutation: for each place of the batch, the place whose box it receives.
    """
    return mixed(
        images, images[permutation], targets, targets[permutation], center=center, size=size
    )
