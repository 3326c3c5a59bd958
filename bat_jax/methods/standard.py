"""Training without an attack."""

from bat_jax.methods.base import Method


class Standard(Method):
    """Minimises the cross-entropy of clean images."""

    name = "standard"
    title = "standard training"
    reference = "Cross-entropy on clean images"
    attack = None
    # Without an attack there is no robust accuracy to choose a checkpoint by.
    select_by = "clean"
