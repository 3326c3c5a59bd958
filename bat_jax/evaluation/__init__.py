"""Evaluation of a model on a whole set: accuracies with sample sizes and intervals.

run = bat_jax.evaluation.read("runs/digits_bat")
run.evaluations["best"].all  # measure -> accuracy, n and interval
"""

from bat_jax.evaluation.records import Accuracy, Evaluation, Measure, OnCorrupted
from bat_jax.evaluation.runs import Run, read
from bat_jax.evaluation.sampled import SampleRecord
from bat_jax.evaluation.statistics import McNemar, holm, mcnemar, over_seeds

__all__ = [
    "Accuracy",
    "Evaluation",
    "McNemar",
    "Measure",
    "OnCorrupted",
    "Run",
    "SampleRecord",
    "holm",
    "mcnemar",
    "over_seeds",
    "read",
]
