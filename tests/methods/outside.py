"""Methods from outside the package, one for each hook."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bat_jax.fields import Real
from bat_jax.methods import Attack, Method, mean


class Perturbed(Method):
    """Updates by the gradient at weights moved slightly along the gradient: two passes."""

    name, title, reference = "perturbed", "Perturbed weights", "tests"
    fields = {"gamma": Real(0.01, low=0)}

    def gradient(self, value_and_grad, variables, *, epoch):
        del epoch
        first = value_and_grad(variables)
        params = jax.tree.map(
            lambda leaf, gradient: leaf + self.settings["gamma"] * gradient,
            variables["params"],
            first.params,
        )
        return value_and_grad({**variables, "params": params})

    def forward_passes(self, num_steps):
        return super().forward_passes(num_steps) + 3


class Average(flax.struct.PyTreeNode):
    """The mean of the probabilities that an example was given, and how often."""

    sums: jax.Array
    visits: jax.Array

    def observed(self, batch):
        return jax.nn.softmax(batch.logits)

    def after(self, rows, observed):
        return Average(self.sums.at[rows].add(observed), self.visits.at[rows].add(1.0))


class Remembering(Method):
    """Pulls predictions towards the example's earlier ones."""

    name, title, reference = "remembering", "Remembered predictions", "tests"

    def memory(self, examples):
        return {
            "average": Average(jnp.zeros((examples, self.setup.num_classes)), jnp.zeros(examples))
        }

    def loss(self, batch):
        value, metrics = super().loss(batch)
        before = batch.memory["average"]
        target = before.sums / jnp.maximum(before.visits, 1.0)[:, None]
        distance = jnp.sum((jax.nn.softmax(batch.logits) - target) ** 2, axis=-1)
        pull = mean(jnp.where(before.visits > 0, distance, 0.0))
        return value + pull, {**metrics, "pull": pull}


class Smoothed(Method):
    """Label smoothing, in the attack and in the loss."""

    name, title, reference = "smoothed", "Label smoothing", "tests"
    fields = {"amount": Real(0.2, low=0, below=1)}

    def targets(self, labels):
        classes = self.setup.num_classes
        return optax.smooth_labels(jax.nn.one_hot(labels, classes), self.settings["amount"])


def confidence(logits, labels):
    """Returns the probability of the label."""
    return jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=-1)[:, 0]


class Trusting(Method):
    """Trains on images that raise the probability of the label, by its own inner loss."""

    name, title, reference = "trusting", "Raised confidence", "tests"
    attack = Attack(confidence)


class Reading(Method):
    """Has a loss of the logits of clean images, which it only reads."""

    name, title, reference = "reading", "Read logits", "tests"
    clean = "read"

    def loss(self, batch):
        return mean(batch.clean_logits[:, 0]), {}
