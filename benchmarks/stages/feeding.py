"""What images on the host cost a training, and how much of their transfer hides behind a step."""

import statistics

import feeding

from stages.machine import precision
from stages.stage import Stage, Values, with_smaller_batches

# The method, the side of the images and the batch: a step of much computation, then one of little,
# behind which less can hide.
SIZES = (("pgd_at", 32, 512), ("standard", 32, 512), ("pgd_at", 128, 128), ("standard", 128, 128))
TOY = (("pgd_at", 16, 8),)
NEEDS = 20.0


def run(stage: Stage) -> None:
    """Measures every size."""
    smoke = stage.run.smoke
    for objective, side, batch in TOY if smoke else SIZES:

        def figures(batch: int, objective: str = objective, side: int = side) -> Values:
            return _figures(stage, objective, side, batch)

        stage.measure(
            f"{objective} {side} pixels",
            lambda batch=batch, figures=figures: with_smaller_batches(batch, figures),
            precision=precision("float32"),
            needs=2 if smoke else NEEDS,
        )


def _figures(stage: Stage, objective: str, side: int, batch: int) -> Values:
    options = feeding.arguments().parse_args([])
    options.objective, options.side, options.batch = objective, side, batch
    options.width, options.steps, options.turns = 64, 10, 5
    if stage.run.smoke:
        options.width, options.steps, options.turns = 4, 1, 1
    seconds = feeding.measured(options)
    share = feeding.hidden(seconds)
    found: Values = {
        f"{name.removeprefix('the ').replace(' ', '_')}_ms": 1e3 * statistics.median(taken)
        for name, taken in seconds.items()
    }
    found["host_by_device"] = feeding.ratio(seconds)
    return found if share is None else {**found, "hidden": share}
