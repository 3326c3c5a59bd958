"""A method from outside: PGD adversarial training in which some classes count more.

    bat-jax --config=page.py

A method is one class. What it does not define it has from `Method`: adversarial training by
cross-entropy, all weights 1.
"""

import jax.numpy as jnp

from bat_jax.fields import Integer, Real, Several
from bat_jax.methods import Batch, Method


class LabelWeighted(Method):
    """Weights an image by its label: `factor` for the classes named, 1 for the others."""

    name = "label_weighted"
    title = "label-weighted PGD adversarial training"
    reference = "an example of bat_jax"
    fields = {
        "classes": Several((0,), Integer(0)),
        "factor": Real(2.0, above=0),
    }

    def weights(self, batch: Batch):
        """Returns w_i = factor where y_i is among the classes, 1 elsewhere."""
        chosen = jnp.isin(batch.labels, jnp.asarray(self.settings["classes"], jnp.int32))
        return jnp.where(chosen, self.settings["factor"], 1.0)
