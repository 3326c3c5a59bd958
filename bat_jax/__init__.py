"""Benign Adversarial Training in JAX and Flax.

Import the part you need: `bat_jax.losses`, `bat_jax.attacks`, `bat_jax.memorization`,
`bat_jax.models`, `bat_jax.data`, `bat_jax.training`. Nothing here has global state.
"""

__version__ = "0.1.0"
