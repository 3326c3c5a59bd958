"""A member of an ensemble: how long it takes, by how many train at once and in which form."""

import statistics
import time
from typing import Any, NamedTuple

import numpy as np

from bat_jax.ensemble.members import Ensemble
from bat_jax.kernels.programs import Execution
from bat_jax.training.building import build
from stages import recipes, sets
from stages.machine import precision
from stages.stage import Stage, Values, with_smaller_batches

# Execution and members at once, the most telling first; compiling many at once takes long.
FORMS: tuple[tuple[Execution, int], ...] = (
    ("vmap", 1),
    ("map", 2),
    ("vmap", 2),
    ("vmap", 4),
    ("vmap", 8),
    ("vmap", 16),
    ("vmap", 32),
)
TOY: tuple[tuple[Execution, int], ...] = (("vmap", 1), ("map", 2), ("vmap", 2))
NEEDS = 25.0
# Timed, after one that compiles.
EPOCHS = 3
STEPS = 20
# Of configs/cifar100_memorization.py on CIFAR-100: what a member comes to.
_EPOCHS, _BATCH, _SUBSET, _SCORED, _MEMBERS = 50, 256, 35_000, 60_000, 4_000


def run(stage: Stage) -> None:
    """Times every form, and names the fastest."""
    smoke = stage.run.smoke
    dtype = recipes.members(stage.run, epochs=1).model.dtype
    found: dict[str, Values] = {}
    for execution, members in TOY if smoke else FORMS:

        def figures(members: int, execution: Execution = execution) -> Values:
            return _timed(stage, execution, members)

        values = stage.measure(
            f"{execution} {members}",
            lambda members=members, figures=figures: with_smaller_batches(members, figures),
            precision=precision(dtype),
            needs=2 if smoke else NEEDS,
        )
        if values is not None:
            found[f"{execution} {members}"] = values
    if not found:
        return
    best = max(found, key=lambda form: found[form]["members_an_hour"])
    rate = found[best]["members_an_hour"]
    text = (
        f"{best} is the fastest of {', '.join(found)}: {rate:,.4g} members an hour,"
        f" {_MEMBERS:,} in {_MEMBERS / rate:,.2f} h"
    )
    stage.note("fastest", text, precision=precision(dtype))


class Fastest(NamedTuple):
    """The fastest execution and number of members at once, and its rate."""

    form: tuple[Execution, int]
    members_an_hour: float

    def seconds(self, epochs: int) -> float:
        """Returns the seconds that a member of `epochs` epochs takes."""
        return 3600 / self.members_an_hour * epochs / _EPOCHS


def fastest(stage: Stage) -> Fastest | None:
    """Returns the fastest form that the file has for this card."""
    found = []
    for execution, members in TOY if stage.run.smoke else FORMS:
        values = stage.run.records.find(f"ensemble/{execution} {members}", by_card=True)
        if values is not None:
            found.append(Fastest((execution, values["batch"]), values["members_an_hour"]))
    return max(found, key=lambda one: one.members_an_hour) if found else None


def _timed(stage: Stage, execution: Execution, members: int) -> Values:
    """Trains a round of members for a few epochs and scores them."""
    smoke = stage.run.smoke
    config = recipes.members(stage.run, epochs=1 if smoke else EPOCHS, is_random=True)
    batch = config.train.batch_size
    steps = 2 if smoke else STEPS
    config.programs.update(execution=execution, members_at_once=members)
    examples = round((steps + 0.5) * batch / config.memorization.ratio)
    scored = 64 if smoke else 5_000
    shape, classes = ((28, 28, 1), 10) if smoke else ((32, 32, 3), 100)
    dataset = sets.random(shape=shape, classes=classes, train=examples, test=scored)
    ensemble = Ensemble(build(config, dataset=dataset), members=members)

    def once() -> list[float]:
        """Returns the seconds of every epoch and of the scoring."""
        ends = [time.perf_counter()]
        ensemble.train(np.arange(members), lambda done: ends.append(time.perf_counter()))
        return np.diff(ends).tolist()

    began = time.perf_counter()
    first = once()
    *epochs, scoring = once()
    step = statistics.median(epochs) / steps / members
    score = scoring / (examples + scored) / members
    seconds = _EPOCHS * (_SUBSET // _BATCH) * step * (_BATCH / batch) + _SCORED * score
    found: dict[str, Any] = {
        "ms_a_member_and_step": 1e3 * step,
        "us_a_member_and_scored_image": 1e6 * score,
        "seconds_a_member": seconds,
        "members_an_hour": 3600 / seconds,
        "first_round_seconds": sum(first),
        "wall_seconds": time.perf_counter() - began,
    }
    return found
