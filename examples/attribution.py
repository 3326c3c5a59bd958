"""Attributes handwritten digits with dattri, and scores the attributions with an ensemble of ours.

    pip install torch dattri
    bat-jax --config=digits_memorization --config.memorization.estimator=margin \
        --config.memorization.members=250 --workdir=runs/digits_margin
    python examples/attribution.py runs/digits_margin

TRAK of dattri (Park et al., arXiv:2303.14186) attributes every test image to the training images,
from PyTorch models of the form of the ensemble's members, trained on all training images. The
linear datamodeling score asks how well its sums predict the margins of members that were trained on
subsets (`bat_jax.memorization.lds`). This takes a minute on a CPU core, and two for the ensemble.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from jaxtyping import Float
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bat_jax import data, memorization
from bat_jax.errors import UserError
from bat_jax.memorization import export

EPOCHS = 24
BATCH_SIZE = 32
PROJECTIONS = 512
WIDTH = 8

Attributions = Float[np.ndarray, "train test"]
Example = tuple[torch.Tensor, torch.Tensor]


def network() -> nn.Module:
    """Returns three convolutions and a dense layer for 8x8 pixels, as `small_cnn` has them."""
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2 * WIDTH, 4 * WIDTH, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * WIDTH, 8 * WIDTH),
        nn.ReLU(),
        nn.Linear(8 * WIDTH, 10),
    )


def trained(train: TensorDataset, *, seed: int, epochs: int) -> nn.Module:
    """Returns a network trained on all images."""
    torch.manual_seed(seed)
    model = network()
    batches = DataLoader(train, BATCH_SIZE, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=epochs * len(batches)
    )
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def trak(models: Sequence[nn.Module], train: TensorDataset, test: TensorDataset) -> Attributions:
    """Returns TRAK's attributions: how much a training image raises log p / (1 - p) of a test one.

    p is the probability of the image's label. The attributions of the models are averaged.
    """
    model = network()

    def log_probability(params: dict[str, torch.Tensor], example: Example) -> torch.Tensor:
        image, label = example
        logits = torch.func.functional_call(model, params, image[None])
        return -nn.functional.cross_entropy(logits, label[None])

    def log_odds(params: dict[str, torch.Tensor], example: Example) -> torch.Tensor:
        logp = log_probability(params, example)
        return logp - torch.log1p(-torch.exp(logp).clamp(max=1 - 1e-6))

    def probability(params: dict[str, torch.Tensor], example: Example) -> torch.Tensor:
        return torch.exp(log_probability(params, example))

    task = AttributionTask(log_odds, model, [one.state_dict() for one in models])
    attributor = TRAKAttributor(task, probability, {"proj_dim": PROJECTIONS})
    with torch.no_grad():
        attributor.cache(DataLoader(train, len(train)))
        return attributor.attribute(DataLoader(test, len(test))).numpy().astype(np.float64)


def main(arguments: Sequence[str], *, models: int = 5, epochs: int = EPOCHS) -> int:
    """Prints the linear datamodeling score of each kind of attribution."""
    if len(arguments) != 1:
        print(
            "usage: attribution.py RUN, a finished run of digits_memorization with margins",
            file=sys.stderr,
        )
        return 2
    (run,) = arguments
    try:
        ensemble = export.subsets(run)
        known = memorization.load(f"{run}/memorization.npz")
    except UserError as error:
        print(f"attribution.py: {error}", file=sys.stderr)
        return 2
    digits = data.load("digits")
    train, test = (
        tensors(split, ids)
        for split, ids in ((digits.train, known.train_ids), (digits.test, known.test_ids))
    )
    made = [trained(train, seed=seed, epochs=epochs) for seed in range(models)]
    print("linear datamodeling score, mean over test images and 95 % interval")
    for number in (1, models):
        score = memorization.lds(trak(made[:number], train, test), ensemble)
        low, high = score.interval
        print(
            f"TRAK, {number} model(s): {score.mean:.3f} ({low:.3f} to {high:.3f}), ceiling"
            f" {score.ceiling:.3f}, {score.models} members"
        )
    return 0


def tensors(split: data.Split, ids: np.ndarray) -> TensorDataset:
    """Returns the images of these ids as PyTorch takes them, and their labels."""
    chosen = split.take(split.rows(ids))
    images = chosen.images.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    return TensorDataset(torch.tensor(images), torch.tensor(chosen.labels.astype(np.int64)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
