"""Compares training an ensemble here with training its members one by one in PyTorch eager.

    python benchmarks/ensemble.py --reference=/tmp/reference/bin/python

The reference is any Python that imports torch. 16 members, three convolutions of 16, 32 and 64
channels on 28x28 images, batch 64, float32. Each side is a process that uses all cores; the sides
take turns, so that a slowdown of the machine affects both. A turn creates, trains and scores all
members. The output has medians with the smallest and largest, their ratio, and the training's
FLOP/s relative to the machine's float32 matrix-product rate in the same run.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import sides

MEMBERS, EXAMPLES, TEST, BATCH, EPOCHS, RATIO, SCORED_AT_ONCE = 16, 2926, 1024, 64, 4, 0.7, 128
SUBSET = round(RATIO * EXAMPLES)


def prepare_jax() -> tuple[Callable[[], object], float]:
    """Returns a function that does one turn, and the FLOPs of its training."""
    from bat_jax.runtime import backend

    backend.use_cores_as_devices()

    import jax
    import jax.numpy as jnp
    import numpy as np

    from bat_jax.config import default
    from bat_jax.data import Dataset, Split
    from bat_jax.ensemble.workers import Workers
    from bat_jax.training.building import build

    config = default()
    config.job = "memorization"
    config.data.name = "digits"
    config.data.validation = 0
    config.data.crop_padding = 0
    config.data.flip = False
    config.model.name = "small_cnn"
    config.objective.name = "standard"
    config.train.batch_size = BATCH
    config.train.epochs = EPOCHS
    config.train.optimizer.learning_rate = 0.01
    config.evaluation.batch_size = SCORED_AT_ONCE
    config.memorization.ratio = RATIO
    draws = np.random.default_rng(0)

    def random(examples: int) -> Split:
        return Split(
            draws.integers(0, 256, (examples, 28, 28, 1), np.uint8),
            draws.integers(0, 10, examples, np.int32),
            np.arange(examples),
        )

    dataset = Dataset("random", random(EXAMPLES), random(TEST), tuple("0123456789"))
    experiment = build(config, dataset=dataset)
    images = jax.ShapeDtypeStruct((BATCH, 28, 28, 1), jnp.float32)
    variables = jax.eval_shape(experiment.model.init, jax.random.key(0), images)
    forward = jax.jit(experiment.model.apply).lower(variables, images).cost_analysis()["flops"]
    ensemble = Workers(experiment, members=MEMBERS)
    steps = MEMBERS * EPOCHS * (SUBSET // BATCH)
    return lambda: ensemble.train(np.arange(MEMBERS)), 3 * forward * steps


def prepare_torch() -> tuple[Callable[[], object], float]:
    """Returns a function that does one turn in tuned PyTorch: channels_last, no copies."""
    import torch
    from torch import nn

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    generator = torch.Generator().manual_seed(0)

    def random(examples: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.rand((examples, 1, 28, 28), generator=generator)
        labels = torch.randint(0, 10, (examples,), generator=generator)
        return images.to(memory_format=torch.channels_last), labels

    sets = random(EXAMPLES), random(TEST)

    def create() -> nn.Module:
        layers = [
            nn.Conv2d(1, 16, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(3136, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, 10),
        ]
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def train_one() -> list[torch.Tensor]:
        model = create()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        images, labels = sets[0]
        rows = torch.randperm(EXAMPLES, generator=generator)[:SUBSET]
        for _ in range(EPOCHS):
            order = rows[torch.randperm(SUBSET, generator=generator)]
            for batch in order[: SUBSET // BATCH * BATCH].reshape(-1, BATCH):
                optimizer.zero_grad(set_to_none=True)
                loss = nn.functional.cross_entropy(
                    model((images[batch] - 0.5) / 0.5), labels[batch]
                )
                loss.backward()
                optimizer.step()
        with torch.inference_mode():
            return [
                torch.cat(
                    [
                        model((part - 0.5) / 0.5).argmax(1) == truth
                        for part, truth in zip(
                            images.split(SCORED_AT_ONCE), labels.split(SCORED_AT_ONCE), strict=True
                        )
                    ]
                )
                for images, labels in sets
            ]

    return lambda: [train_one() for _ in range(MEMBERS)], 0.0


def serve(side: str) -> None:
    """Does a turn per question and answers with its seconds."""
    do_turn, flops = prepare_jax() if side == "jax" else prepare_torch()

    def answer(_: object) -> dict[str, float]:
        began = time.perf_counter()
        do_turn()
        return {"seconds": time.perf_counter() - began, "rate": rate()}

    def rate() -> float:
        if side != "jax":
            return 0.0
        from bat_jax.runtime.peak import matrix_rate

        return matrix_rate()

    first = answer(None)["seconds"]
    sides.serve({"first": first, "flops": flops}, answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", help="a Python that imports torch; by default JAX alone")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--side", choices=["jax", "torch"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options.side)
        return
    pythons = {"jax": sys.executable} | ({"torch": options.reference} if options.reference else {})
    commands = {side: [python, __file__, f"--side={side}"] for side, python in pythons.items()}
    with sides.started(commands) as running:
        first = {side: process.facts for side, process in running.items()}
        answers = sides.alternate(running, None, turns=options.turns)
    seconds = {side: [answer["seconds"] for answer in given] for side, given in answers.items()}
    steps = EPOCHS * (SUBSET // BATCH)
    print(f"{MEMBERS} members, {steps} steps of {BATCH} images each, scored on {EXAMPLES + TEST}")
    medians = {}
    for side, taken in seconds.items():
        medians[side] = statistics.median(taken)
        print(
            f"{side:6} {medians[side]:6.2f} s (min {min(taken):.2f}, max {max(taken):.2f}),"
            f" {1e3 * medians[side] / steps:.0f} ms per step of all members;"
            f" first {first[side]['first']:.1f} s"
        )
    rate = max(answer["rate"] for answer in answers["jax"])
    share = first["jax"]["flops"] / medians["jax"] / rate
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s; ours reaches {share:.2f} of it")
    if "torch" in medians:
        ratios = [
            ours / theirs for ours, theirs in zip(seconds["jax"], seconds["torch"], strict=True)
        ]
        print(
            f"ratio: {medians['jax'] / medians['torch']:.2f} (turn by turn"
            f" {min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
