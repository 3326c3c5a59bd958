"""The jobs of `launch.py`: train, evaluate, estimate memorization, or test the findings."""

from bat_jax.jobs.evaluate import evaluate_run
from bat_jax.jobs.memorization import memorize
from bat_jax.jobs.train import train_and_evaluate
from bat_jax.jobs.trial import findings
from bat_jax.jobs.weights import evaluate_weights

__all__ = ["evaluate_run", "evaluate_weights", "findings", "memorize", "train_and_evaluate"]
