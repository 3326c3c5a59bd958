"""Estimates from the scores of an ensemble's members."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bat_jax.memorization import aggregates, contrast
from bat_jax.memorization.estimates import Estimates
from bat_jax.memorization.estimator import EstimatorOutput, InfluenceKind, Statistics
from bat_jax.memorization.store import Store, recorded
from bat_jax.runtime.storage import AnyPath
from bat_jax.training.experiment import Experiment

# What members are scored on if they are scored on both kinds of images.
_BOTH = ("clean", "adversarial")


def opened(experiment: Experiment, workdir: AnyPath, *, writes: bool = False) -> Store:
    """Opens the scores of the members in the folder of a run.

    Args:
      experiment: the experiment of the members.
      workdir: the folder of the run.
      writes: as for `Store`.

    Raises:
      UserError: a file there cannot be part of them.
    """
    settings = experiment.config.memorization
    return Store(
        workdir / "members",
        train=len(experiment.train),
        test=len(experiment.dataset.test),
        statistic=recorded(settings),
        attacked=settings.inputs == "both",
        writes=writes,
    )


def estimated(
    experiment: Experiment,
    store: Store,
    members: int,
    *,
    influence: InfluenceKind,
    attacked: bool = False,
) -> tuple[EstimatorOutput, dict[int, aggregates.Halves]]:
    """Returns estimates from the first `members` members, and memorization from their halves.

    The halves are the even and the odd members among the first n, for each n of
    `aggregates.sizes(members)`.

    Args:
      experiment: the experiment of the members.
      store: their scores.
      members: their number.
      influence: pairs of the same class, all pairs, or none.
      attacked: of members that were scored on both, whether to read the scores on attacked images.
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
    for read in store.read(members):
        scores = read.attacked() if attacked else read
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


def sides(
    experiment: Experiment,
    store: Store,
    members: int,
    found: Mapping[str, tuple[EstimatorOutput, aggregates.Halves]],
) -> dict[str, contrast.Side]:
    """Returns what `contrast.summarize` compares, for `clean` and `robust`.

    Args:
      experiment: the experiment of the members, which are scored on both kinds of images.
      store: their scores.
      members: their number.
      found: the estimates from all members, and memorization from their halves.
    """
    is_margin = recorded(experiment.config.memorization) == "margin"
    parts: dict[str, list[contrast.Tested]] = {"clean": [], "robust": []}
    order = []
    for read in store.read(members):
        order.append(read.members)
        for name, scores in (("clean", read), ("robust", read.attacked())):
            accuracy = np.mean(scores.test > 0 if is_margin else scores.test, axis=1)
            parts[name].append(contrast.Tested(scores.masks, scores.test, accuracy))
    rows = np.argsort(np.concatenate(order))
    tested = {
        name: contrast.Tested(*(np.concatenate(of)[rows] for of in zip(*each, strict=True)))
        for name, each in parts.items()
    }
    return {
        name: contrast.Side(tested[name], halves, output.influence)
        for name, (output, halves) in found.items()
    }


def as_estimates(
    experiment: Experiment, found: EstimatorOutput, *, attacked: bool = False
) -> Estimates:
    """Returns estimates in the form of an estimates file.

    Args:
      experiment: the experiment of the members.
      found: the estimates.
      attacked: of members that were scored on both, whether they are those of attacked images.
    """
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
        inputs=_BOTH[attacked] if settings.inputs == "both" else settings.inputs,
    )
