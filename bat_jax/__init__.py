"""Benign Adversarial Training in JAX and Flax.

Import the part you need: `bat_jax.losses`, `bat_jax.attacks`, `bat_jax.methods`,
`bat_jax.memorization`, `bat_jax.models`, `bat_jax.data`, `bat_jax.training`; `bat_jax.fit` trains a
model. Nothing here has global state.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bat_jax.jobs.fit import Fitted, fit

__version__ = "0.1.0"

__all__ = ["Fitted", "__version__", "fit"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `bat_jax.losses` needs neither a trainer nor its packages.
    if name in ("Fitted", "fit"):
        from bat_jax.jobs.fit import Fitted, fit

        return {"Fitted": Fitted, "fit": fit}[name]
    raise AttributeError(f"module 'bat_jax' has no attribute {name!r}")
