"""Memorization and influence estimates, and the typical and atypical sets they imply."""

from bat_jax.memorization.datamodeling import DatamodelingScore, Subsets, lds
from bat_jax.memorization.estimates import Estimates, Typicality, load, save, select, split
from bat_jax.memorization.estimator import EstimatorOutput, Influence, Statistics, estimate

__all__ = [
    "DatamodelingScore",
    "Estimates",
    "EstimatorOutput",
    "Influence",
    "Statistics",
    "Subsets",
    "Typicality",
    "estimate",
    "lds",
    "load",
    "save",
    "select",
    "split",
]
