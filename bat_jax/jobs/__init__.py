"""What `launch.py` can do with a config: train a run and evaluate it, or evaluate it again."""

from bat_jax.jobs.evaluate import evaluate_run
from bat_jax.jobs.train import train_and_evaluate

__all__ = ["evaluate_run", "train_and_evaluate"]
