"""Adversarial training by projected gradient descent."""

from bat_jax.methods.base import Method


class PgdAt(Method):
    """Minimises the cross-entropy of adversarial images, all with weight 1."""

    name = "pgd_at"
    title = "PGD adversarial training"
    reference = "Madry et al., arXiv:1706.06083"
