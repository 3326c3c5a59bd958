"""Linear classifiers, whose robustness is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

SHAPE = (8, 8, 1)
CLASSES = 6


def problem(*, seed=0, count=48, classes=CLASSES):
    """Returns a logits function, its weights, images far from 0 and 1, and labels it gives them.

    The images are in [0.4, 0.6]: a ball of radius 0.4 around them meets no face of the box.
    """
    weights = np.asarray(jax.random.normal(jax.random.key(seed), (64, classes)))
    images = np.asarray(
        jax.random.uniform(jax.random.key(seed + 1), (count, *SHAPE), minval=0.4, maxval=0.6)
    )

    def logits_fn(x):
        return x.reshape(len(x), -1) @ jnp.asarray(weights)

    labels = np.asarray(jnp.argmax(logits_fn(images), axis=-1)).astype(np.int32)
    return logits_fn, weights, images, labels


def distances(weights, images, labels, norm):
    """Returns the distance of each image from the nearest decision boundary."""
    logits = images.reshape(len(images), -1).astype(np.float64) @ weights.astype(np.float64)
    nearest = np.full(len(images), np.inf)
    for target in range(weights.shape[1]):
        normal = weights[:, target][None, :] - weights[:, labels].T
        size = np.abs(normal).sum(1) if norm == "linf" else np.linalg.norm(normal, axis=1)
        gap = logits[np.arange(len(images)), labels] - logits[:, target]
        with np.errstate(divide="ignore", invalid="ignore"):
            nearest = np.where(labels == target, nearest, np.minimum(nearest, gap / size))
    return nearest


def median_radius(weights, images, labels, norm):
    """Returns an epsilon that breaks half of the images, at a distance from every boundary."""
    ordered = np.sort(distances(weights, images, labels, norm))
    middle = len(ordered) // 2
    return float(ordered[middle - 1 : middle + 1].mean())
