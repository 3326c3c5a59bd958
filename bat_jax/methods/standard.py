"""Training without an attack."""

from bat_jax.methods.base import Method


class Standard(Method):
    """Minimises the cross-entropy of clean images."""

    name = "standard"
    title = "standard training"
    reference = "Cross-entropy on clean images"
    attack = None
    # Without adversarial training, robust accuracy cannot rank checkpoints.
    select_by = "clean"
