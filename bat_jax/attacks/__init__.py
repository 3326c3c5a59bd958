"""Adversarial attacks on any JAX function from [0, 1] images to logits."""

from bat_jax.attacks.pgd import Trajectory, pgd, pgd_trajectory

__all__ = ["Trajectory", "pgd", "pgd_trajectory"]
