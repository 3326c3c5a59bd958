"""Do the losses of one short run rank all of CIFAR-100's training images as released values do?

    export PYTHONPATH=.
    python benchmarks/released_proxies.py OUT --data=cifar-100-binary.tar.gz \
        --cscores=cifar100-cscores-orig-order.npz \
        --pairs=cifar100_high_infl_pairs_infl0.15_mem0.25.npz

trains the network of `bat_jax.models.fast_cnn`, 32 channels wide, by the standard method on all
50,000 images but for 500 that are held out, and once more with 5 % of the labels flipped. The
proxies are those that the trainer records at every presentation of an image: the mean loss, which
is the Cumulative Sample Loss over the number of epochs, and how often the image was forgotten.
Printed are, in Markdown, the rank correlation with 1 - C-score (Jiang et al., arXiv:2002.03206),
over all images and the mean over classes, the AUROC of finding the training images of the released
high-influence pairs (Feldman & Zhang, arXiv:2008.03703), and the AUROC of finding flipped labels,
with 95 % intervals over images.

OUT keeps the runs: finished ones are not trained again, and interrupted ones resume.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

import numpy as np
from ml_collections import ConfigDict

import bat_jax
from bat_jax import data
from bat_jax.data import Dataset
from bat_jax.data.dataset import positions
from bat_jax.errors import UserError
from bat_jax.memorization import proxies, released
from bat_jax.memorization.ranking import auroc, rank_correlation
from bat_jax.models.fast_cnn import FastCNN
from benchmarks.proxies import text
from configs import cifar100_classes_memorization

FLIPPED = 0.05


def config_of(options: argparse.Namespace) -> ConfigDict:
    """Returns the recipe of the members of `cifar100_classes_memorization`, for all classes."""
    config = cifar100_classes_memorization.get_config()
    config.job, config.seed, config.parallel.devices = "train", options.seed, 1
    config.data.update(path=options.data, classes=None, crop_padding=4, flip=True, validation=500)
    config.train.update(epochs=options.epochs, batch_size=256)
    config.train.optimizer.learning_rate = 0.2
    config.checkpoint.keep = 1
    # The test is not part of the comparison.
    config.evaluation.update(subset=1000, num_steps=1, losses=(), attacks=())
    return config


def flipped(dataset: Dataset, seed: int) -> tuple[Dataset, np.ndarray]:
    """Returns the data with 5 % of the training labels replaced by others, and which they are."""
    draws, train = np.random.default_rng(seed), dataset.train
    is_flipped = np.zeros(len(train), bool)
    is_flipped[draws.choice(len(train), round(FLIPPED * len(train)), replace=False)] = True
    moves = is_flipped * draws.integers(1, dataset.num_classes, len(train))
    labels = ((train.labels + moves) % dataset.num_classes).astype(train.labels.dtype)
    train = dataclasses.replace(train, labels=labels)
    return dataclasses.replace(dataset, train=train, name="flipped"), is_flipped


def trained(config: ConfigDict, dataset: Dataset, folder: Path) -> proxies.Proxies:
    """Returns the proxies of a run, after training it if the folder lacks them."""
    if not (folder / "results.json").exists():
        began = time.monotonic()
        bat_jax.fit(config, model=FastCNN(100, width=32), dataset=dataset, workdir=folder)
        print(f"{folder.name}: {time.monotonic() - began:.0f} s", flush=True)
    results = json.loads((folder / "results.json").read_text())
    print(f"{folder.name}: {json.dumps(results['last']['test']['clean'])}", flush=True)
    return proxies.load(folder / proxies.FILE)


def within_classes(values: np.ndarray, others: np.ndarray, labels: np.ndarray) -> str:
    """Returns the mean and the range of the rank correlations within classes."""
    each = [
        rank_correlation(values[labels == c], others[labels == c]).value for c in np.unique(labels)
    ]
    each = [value for value in each if np.isfinite(value)]  # Undefined where all tie.
    return f"{np.mean(each):.3f} ({min(each):.3f} to {max(each):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the runs are kept")
    parser.add_argument("--data", required=True, help="the archive of CIFAR-100")
    parser.add_argument("--cscores", required=True)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    # Files that do not fit are refused before anything is trained.
    config, dataset = config_of(options), data.load("cifar100", path=options.data)
    cscores, pairs = released.load_cscores(options.cscores), released.load_pairs(options.pairs)
    released.check_cscores(cscores, dataset.train)
    wrong, is_flipped = flipped(dataset, options.seed)
    plain = trained(config, dataset, options.folder / "plain")
    mislabelled = trained(config, wrong, options.folder / "flipped")
    irregular = 1 - cscores.scores[plain.ids]
    of_pairs = np.isin(plain.ids, pairs.train)
    is_flipped = is_flipped[positions(dataset.train.ids, mislabelled.ids)]
    print(
        f"{len(irregular):,} images, {of_pairs.sum()} of them in {len(pairs.train):,} released"
        f" pairs; {is_flipped.sum():,} labels flipped\n\n"
        "| proxy | rank correlation | within classes | AUROC, in pairs | AUROC, flipped |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for name in ("mean_loss", "forgetting"):
        values = getattr(plain, name)
        cells = (
            text(rank_correlation(values, irregular)),
            within_classes(values, irregular, plain.labels),
            text(auroc(values, of_pairs)),
            text(auroc(getattr(mislabelled, name), is_flipped)),
        )
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
