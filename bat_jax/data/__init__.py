"""Image classification sets as arrays with ids: `load(name)` returns a `Dataset`."""

from bat_jax.data.classes import select
from bat_jax.data.dataset import Dataset, Split, Superclasses, from_arrays
from bat_jax.data.mixing import cutmix
from bat_jax.data.registry import load

__all__ = ["Dataset", "Split", "Superclasses", "cutmix", "from_arrays", "load", "select"]
