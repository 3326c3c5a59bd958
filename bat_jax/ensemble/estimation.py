"""Estimates from the scores of an ensemble's members."""

from typing import Any

from bat_jax.memorization import aggregates
from bat_jax.memorization.estimates import Estimates
from bat_jax.memorization.estimator import EstimatorOutput, InfluenceKind, Statistics
from bat_jax.memorization.store import Store, recorded
from bat_jax.training.experiment import Experiment


def estimated(
    experiment: Experiment, store: Store, members: int, *, influence: InfluenceKind
) -> tuple[EstimatorOutput, dict[int, aggregates.Halves]]:
    """Returns estimates from the first `members` members, and memorization from their halves.

    The halves are the even and the odd members among the first n, for each n of
    `aggregates.sizes(members)`.
    """
    labels = experiment.train.labels, experiment.dataset.test.labels
    settings = experiment.config.memorization
    kind: dict[str, Any] = {
        "binary": recorded(settings) == "correct",
        "estimator": settings.estimator,
    }
    whole = Statistics(*labels, influence=influence, **kind)
    halves = {
        size: [Statistics(*labels, influence="none", **kind) for _ in range(2)]
        for size in aggregates.sizes(members)
    }
    for scores in store.read(members):
        whole.update(scores.masks, scores.train, scores.test)
        for size, pair in halves.items():
            for rest, half in enumerate(pair):
                rows = (scores.members % 2 == rest) & (scores.members < size)
                half.update(scores.masks[rows], scores.train[rows], scores.test[rows])
    found = {
        size: (even.estimated().memorization, odd.estimated().memorization)
        for size, (even, odd) in halves.items()
    }
    return whole.estimated(), found


def as_estimates(experiment: Experiment, found: EstimatorOutput) -> Estimates:
    """Returns estimates in the form of an estimates file."""
    train, test = experiment.train, experiment.dataset.test
    settings = experiment.config.memorization
    return Estimates(
        source=f"the ensemble of {experiment.dataset.name}",
        memorization=found.memorization,
        train_labels=train.labels,
        test_labels=test.labels,
        train_ids=train.ids,
        test_ids=test.ids,
        influence=found.influence,
        memorization_se=found.memorization_se,
        in_count=found.in_count,
        out_count=found.out_count,
        dataset=experiment.dataset.name,
        classes=experiment.dataset.classes,
        statistic=settings.statistic,
        # Files of the paper's estimator stay as they were.
        estimator=None if settings.estimator == "difference" else settings.estimator,
        training=experiment.config.objective.name,
        inputs=settings.inputs,
    )
