"""What `launch.py` can do with a config: train and evaluate, evaluate again, or memorize."""

from bat_jax.jobs.evaluate import evaluate_run
from bat_jax.jobs.memorize import memorize
from bat_jax.jobs.train import train_and_evaluate

__all__ = ["evaluate_run", "memorize", "train_and_evaluate"]
