"""Memorization and influence estimates, and the typical and atypical sets they imply."""

from bat_jax.memorization.datamodeling import DatamodelingScore, Subsets, lds
from bat_jax.memorization.estimates import Estimates, load, save
from bat_jax.memorization.estimator import EstimatorOutput, Influence, Statistics, estimate
from bat_jax.memorization.matching import select
from bat_jax.memorization.typicality import Typicality, split

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
