"""Memorization and influence estimates, and the typical and atypical sets they imply."""

from bat_jax.memorization.estimates import Estimates, Typicality, load, save, select, split
from bat_jax.memorization.estimator import EstimatorOutput, Influence, Statistics, estimate

__all__ = [
    "Estimates",
    "EstimatorOutput",
    "Influence",
    "Statistics",
    "Typicality",
    "estimate",
    "load",
    "save",
    "select",
    "split",
]
