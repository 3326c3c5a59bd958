"""Memorization and influence estimates, and the typical and atypical sets they imply."""

from bat_jax.memorization.estimates import Estimates, Influence, Typicality, load, split

__all__ = ["Estimates", "Influence", "Typicality", "load", "split"]
