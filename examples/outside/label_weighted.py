"""A method from outside the package: PGD adversarial training that weights some classes more.

    bat-jax --config=page.py

A method is one class. `Method` supplies what it does not define: adversarial training by
cross-entropy with all weights 1.
"""

import jax.numpy as jnp

from bat_jax.fields import Integer, Real, Several
from bat_jax.methods import Batch, Method


class LabelWeighted(Method):
    """Weights images by label: `factor` for the chosen classes, 1 for the others."""

    name = "label_weighted"
    title = "label-weighted PGD adversarial training"
    reference = "an example of bat_jax"
    fields = {
        "classes": Several((0,), Integer(0)),
        "factor": Real(2.0, above=0),
    }

    def weights(self, batch: Batch):
        """Returns w_i = factor if y_i is among the classes, else 1."""
        chosen = jnp.isin(batch.labels, jnp.asarray(self.settings["classes"], jnp.int32))
        return jnp.where(chosen, self.settings["factor"], 1.0)
