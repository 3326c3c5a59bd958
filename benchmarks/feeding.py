"""Measures what images on the host cost a training, as a ratio to images on the devices.

    python benchmarks/feeding.py
    python benchmarks/feeding.py --side=128 --objective=standard

Both placements take the same steps in turns of one epoch, in one process. The table has the median
over turns of the time per step, with the smallest and largest; the time that a batch takes from the
host to the device by itself; and the share of it that steps hide, 1 - (host - device) / alone.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import sides

ALONE = "the batch alone"


def epoch_of(options: argparse.Namespace, placement: str) -> tuple[Callable[[], float], Any]:
    """Returns a function that takes an epoch and returns the seconds per step; and the images."""
    import jax
    import numpy as np

    from bat_jax.config import default
    from bat_jax.data import Dataset, Split
    from bat_jax.training.building import build

    draws, batch = np.random.default_rng(0), options.batch

    def images(count: int) -> Split:
        pixels = draws.integers(0, 256, (count, options.side, options.side, 3), np.uint8)
        return Split(pixels, np.arange(count, dtype=np.int32) % 10, np.arange(count))

    config = default()
    config.data.name, config.data.validation = "random", batch
    config.data.placement = placement
    config.train.batch_size = config.evaluation.batch_size = batch
    config.objective.name = options.objective
    config.attack.num_steps = 3
    config.model.name, config.model.depth = "preact_resnet", 10
    config.model.width = options.width
    train, test = images((options.steps + 1) * batch), images(batch)
    experiment = build(config, dataset=Dataset("random", train, test, tuple("0123456789")))
    feed, root = experiment.feed(), experiment.root()
    order = jax.jit(experiment.order)(root, np.int32(0))
    carried = [experiment.initial_state()]

    def take() -> float:
        began = time.perf_counter()
        for data in feed.batches(order, 0):
            carried[0], metrics = experiment.train_step(carried[0], data, order, root)
        jax.block_until_ready((carried[0], metrics))
        return (time.perf_counter() - began) / len(order)

    def alone() -> float:
        began = time.perf_counter()
        batches: Iterator[Any] = feed.batches(order, 0)
        for data in itertools.islice(batches, len(order)):
            jax.block_until_ready(data)
        return (time.perf_counter() - began) / len(order)

    take()
    return take, alone


def measured(options: argparse.Namespace) -> dict[str, list[float]]:
    """Returns the seconds per step of every turn, by placement, and of a batch by itself."""
    device, _ = epoch_of(options, "device")
    host, alone = epoch_of(options, "host")
    seconds: dict[str, list[float]] = {"device": [], "host": [], ALONE: []}
    for turn in range(options.turns):
        sources = list(zip(seconds.values(), (device, host, alone), strict=True))
        for taken, source in sources if turn % 2 else reversed(sources):
            taken.append(source())
    return seconds


def ratio(seconds: dict[str, list[float]]) -> float:
    """Returns the median over turns of the time with images on the host, on the devices as 1."""
    pairs = zip(seconds["host"], seconds["device"], strict=True)
    return statistics.median(host / device for host, device in pairs)


def hidden(seconds: dict[str, list[float]]) -> float | None:
    """Returns the share of a batch's time that steps hide; None where it is too short to say."""
    device, host, alone = (statistics.median(taken) for taken in seconds.values())
    return None if alone < 0.01 * device else 1 - (host - device) / alone


def main() -> None:
    """Prints the table of one size."""
    options = arguments().parse_args()

    from bat_jax.runtime import backend

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # As launch.py does.
    backend.prepare(compilation_cache="none")
    backend.use_cores_as_devices(sharing=(options.batch,))
    seconds = measured(options)
    sides.print_table(
        ("placement", "step"), [(name, sides.spread(taken)) for name, taken in seconds.items()]
    )
    print(f"\nhost / device: {ratio(seconds):.3f}")
    share = hidden(seconds)
    if share is None:
        print("the batch alone takes less than 1 % of a step: too little to measure")
    else:
        print(f"hidden: {100 * share:.0f} % of the batch's time")


def arguments() -> argparse.ArgumentParser:
    """Returns the parser of the sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=4, help="of the network's first layer")
    parser.add_argument("--objective", default="pgd_at")
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--turns", type=int, default=11)
    return parser


if __name__ == "__main__":
    main()
