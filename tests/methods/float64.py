"""Small networks and losses in NumPy's float64, with gradients by central differences.

They share no code with the package: a test compares a training step with them.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from bat_jax.models.layers import batch_norm
from bat_jax.parallel import AXIS


class Net(nn.Module):
    """A dense layer, batch norm if asked for, tanh, and a head."""

    normed: bool = True

    @nn.compact
    def __call__(self, x, *, train=False, features=False):
        x = nn.Dense(4, name="body")(x.reshape(len(x), -1))
        if self.normed:
            x = batch_norm(train=train, axis_name=AXIS if train else None, dtype=jnp.float32)(x)
        x = jnp.tanh(x)
        logits = nn.Dense(10, name="head")(x)
        return (logits, x) if features else logits


def logits(params, images, statistics=None):
    """Returns the logits of `Net` and the batch's mean and variance before batch norm.

    Args:
      params: by name, `body.kernel` and so on.
      images: any shape, examples first.
      statistics: mean and variance to normalise by; by default the batch's.
    """
    x = images.reshape(len(images), -1) @ params["body.kernel"] + params["body.bias"]
    found = x.mean(axis=0), x.var(axis=0)
    mean, variance = statistics or found
    x = (x - mean) / np.sqrt(variance + 1e-5)
    x = x * params["BatchNorm_0.scale"] + params["BatchNorm_0.bias"]
    return np.tanh(x) @ params["head.kernel"] + params["head.bias"], found


def log_softmax(z):
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(z, labels):
    return -log_softmax(z)[np.arange(len(z)), labels].mean()


def kl_divergence(z, other):
    log_p, log_q = log_softmax(z), log_softmax(other)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()


def gradient(loss, params, step=1e-5):
    """Returns the gradient of a function of arrays by name, by central differences."""
    found = {}
    for name, values in params.items():
        found[name] = np.zeros_like(values)
        for place in np.ndindex(values.shape):
            ends = []
            for sign in (1, -1):
                moved = values.copy()
                moved[place] += sign * step
                ends.append(loss({**params, name: moved}))
            found[name][place] = (ends[0] - ends[1]) / (2 * step)
    return found


def flat(tree, prefix=""):
    """Returns the arrays of nested dicts in float64, by joined name."""
    found = {}
    for name, value in tree.items():
        if hasattr(value, "items"):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = np.asarray(value, np.float64)
    return found
