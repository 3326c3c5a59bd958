"""Adversarial attacks on any JAX function from [0, 1] images to logits."""

from bat_jax.attacks.auto_attack import autoattack
from bat_jax.attacks.auto_pgd import apgd, apgd_targeted
from bat_jax.attacks.bracketing import MinimalNorms, minimal_norms
from bat_jax.attacks.checks import RobustnessWarning
from bat_jax.attacks.classifier import LogitsFn, RandomLogitsFn
from bat_jax.attacks.fab import fab_targeted
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.inner_losses import Loss
from bat_jax.attacks.projected_gradient import PgdSettings, Trajectory, pgd, pgd_trajectory
from bat_jax.attacks.result import Result
from bat_jax.attacks.sampling import Sample
from bat_jax.attacks.square_attack import square
from bat_jax.attacks.threats import Threat, UnionResult, union

__all__ = [
    "LogitsFn",
    "Loss",
    "MinimalNorms",
    "Norm",
    "PgdSettings",
    "RandomLogitsFn",
    "Result",
    "RobustnessWarning",
    "Sample",
    "Threat",
    "Trajectory",
    "UnionResult",
    "apgd",
    "apgd_targeted",
    "autoattack",
    "fab_targeted",
    "minimal_norms",
    "pgd",
    "pgd_trajectory",
    "square",
    "union",
]
