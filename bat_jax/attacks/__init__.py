"""Adversarial attacks on any JAX function from [0, 1] images to logits."""

from bat_jax.attacks.autoattack import autoattack
from bat_jax.attacks.pgd import pgd

__all__ = ["autoattack", "pgd"]
