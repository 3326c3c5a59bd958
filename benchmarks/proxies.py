"""How well do proxies of one run rank what an ensemble memorizes, in adversarial training too?

    export PYTHONPATH=.
    python benchmarks/proxies.py OUT \
        --estimates runs/digits_memorization/memorization.npz \
            runs/digits_robust_memorization/memorization.npz \
            runs/digits_robust_memorization/robust_memorization.npz

trains the members' network on all training images of digits, once by the standard method and once
by PGD-AT, from one seed, and both again with 5 % of the labels flipped: 3 minutes on one core
(predicted). After every epoch it takes the loss, the input curvature, the loss sensitivity and the
verdict on every training image, clean and, with PGD-AT, under PGD-20 against the network of that
epoch. The proxies are the sums over epochs, and how often a right verdict became a wrong one; those
that the trainer logs itself are of the images as they are trained on. Each is compared with the
estimates in every given file. Printed are tables in Markdown: rank correlation, Pearson's
correlation, cosine and the AUROC of finding atypical images, with 95 % intervals over images; then
the AUROC of finding flipped labels.

OUT keeps the finished runs, which are not trained again.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import keys, memorization, models
from bat_jax.attacks import pgd_trajectory
from bat_jax.attacks.classifier import correct
from bat_jax.data.device import to_unit
from bat_jax.errors import UserError
from bat_jax.evaluation.classify import evaluation_attack
from bat_jax.keys import Purpose
from bat_jax.memorization import history as histories
from bat_jax.memorization import proxies
from bat_jax.memorization.matching import matched, of_examples
from bat_jax.memorization.proxies import Comparison
from bat_jax.memorization.ranking import Measured, auroc
from bat_jax.runtime.files import write_npz
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment
from bat_jax.training.state import TrainState
from configs import digits_robust_memorization

FLIPPED = 0.05
KINDS = {"standard": ("clean",), "pgd_at": ("clean", "attacked")}
LOGGED = "as trained on"
# Proxies of a run: by the images that they are of, and by name.
Found = dict[tuple[str, str], np.ndarray]


def experiment_of(method: str, seed: int, epochs: int | None) -> Experiment:
    """Returns a run of a method with the network and schedule of the members."""
    config = digits_robust_memorization.get_config()
    config.parallel.devices, config.seed = 1, seed
    config.objective.name = method
    config.train.epochs = epochs or config.train.epochs
    return build(config)


def flipped(experiment: Experiment) -> tuple[Experiment, np.ndarray]:
    """Returns a run with 5 % of its labels replaced by other ones, and which they are."""
    train, classes = experiment.train, experiment.dataset.num_classes
    of_rows, of_labels = jax.random.split(
        keys.derive(experiment.config.seed, Purpose.CORRUPTION), 2
    )
    count = round(FLIPPED * len(train))
    rows = np.asarray(jax.random.permutation(of_rows, len(train))[:count])
    labels = train.labels.copy()
    labels[rows] += np.asarray(jax.random.randint(of_labels, (count,), 1, classes))
    changed = dataclasses.replace(train, labels=(labels % classes).astype(np.int32))
    named = dataclasses.replace(experiment.dataset, name=f"flipped_{experiment.dataset.name}")
    return (
        dataclasses.replace(experiment, train=changed, dataset=named),
        changed.labels != train.labels,
    )


def trained(experiment: Experiment) -> Iterator[TrainState]:
    """Yields the state after every epoch."""
    state, root, data = experiment.initial_state(), experiment.root(), experiment.train_data()
    order_of = jax.jit(experiment.order)
    for epoch in range(experiment.config.train.epochs):
        order = order_of(root, np.int32(epoch))
        for _ in range(experiment.steps_per_epoch):
            state, metrics = experiment.train_step(state, data, order, root)
        if not np.isfinite(metrics["loss"]):
            raise SystemExit(f"epoch {epoch + 1}: the loss is {metrics['loss']}")
        yield state


def measure_of(experiment: Experiment, kind: str, draws: int) -> Any:
    """Returns the jitted function from variables and an epoch to what the proxies are made of.

    Args:
      experiment: the run.
      kind: of its training images, `clean` or `attacked`.
      draws: number of random vectors of the curvature.

    Returns:
      A function that returns loss, curvature, sensitivity and correctness of every image.
    """
    config, split = experiment.config, experiment.train
    attack = evaluation_attack(config, experiment.programs, "cross_entropy")
    count, size = len(split), config.evaluation.batch_size
    # The last batch is padded with the last image.
    batches = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
    data = experiment.train_data()
    root = keys.derive(config.seed, Purpose.EVALUATION)

    @jax.jit
    def measure(variables: Any, epoch: Any) -> Any:
        logits_of = models.logits_fn(experiment.evaluated(), variables)
        # Step 0 is the key of the attacks.
        signs = keys.derive(config.seed, Purpose.EVALUATION, epoch + 1)

        def of_batch(given: Any) -> Any:
            rows, key = given
            images, labels = to_unit(data.images[rows]), data.labels[rows]
            with jax.default_matmul_precision("highest"):
                if kind == "attacked":
                    image_keys = keys.per_image(root, data.ids[rows])
                    images = pgd_trajectory(logits_of, images, labels, image_keys, attack).images
                return (
                    proxies.cumulative_loss([logits_of], images, labels),
                    proxies.curvature(logits_of, images, labels, key, draws=draws),
                    proxies.loss_sensitivity(logits_of, images, labels),
                    correct(logits_of(images), labels),
                )

        found = jax.lax.map(of_batch, (batches, jax.random.split(signs, len(batches))))
        return jax.tree.map(lambda values: values.reshape(-1)[:count], found)

    return measure


def measured(experiment: Experiment, folder: Path, draws: int) -> None:
    """Trains a run and writes its proxies, and the file of its training examples."""
    kinds = KINDS[experiment.config.objective.name]
    measures = {kind: measure_of(experiment, kind, draws) for kind in kinds}
    count = len(experiment.train)
    sums = {kind: np.zeros((2, count)) for kind in kinds}
    seen = {kind: histories.create(count) for kind in kinds}
    for epoch, state in enumerate(trained(experiment)):
        for kind, measure in measures.items():
            loss, *others, is_correct = measure(state.evaluated, np.int32(epoch))
            sums[kind] += np.stack(jax.device_get(others))
            seen[kind] = seen[kind].after(jnp.arange(count), (loss, is_correct))
    folder.mkdir(parents=True, exist_ok=True)
    logged = jax.device_get(state.memory["history"])
    proxies.save(folder / proxies.FILE, experiment.train, logged, dataset=experiment.dataset.name)
    arrays = {}
    for kind in kinds:
        forgotten = np.where(seen[kind].ever_correct, seen[kind].forgotten, np.inf)
        arrays[f"{kind} cumulative_loss"] = np.asarray(seen[kind].loss_sum, np.float64)
        arrays[f"{kind} curvature"], arrays[f"{kind} loss_sensitivity"] = sums[kind]
        arrays[f"{kind} forgetting"] = forgotten
    write_npz(
        folder / "proxies.npz", arrays | {"settings": np.asarray(settings(experiment, draws))}
    )


def settings(experiment: Experiment, draws: int) -> str:
    """Returns in words what proxies depend on."""
    config = experiment.config
    return f"seed {config.seed}, {config.train.epochs} epochs, {draws} draws"


def proxies_of(experiment: Experiment, folder: Path, draws: int) -> tuple[Found, proxies.Proxies]:
    """Returns the proxies of a run, after training it if the folder lacks them."""
    path, wanted = folder / "proxies.npz", settings(experiment, draws)
    if not path.exists():
        began, used = time.monotonic(), time.process_time()
        measured(experiment, folder, draws)
        took = f"{time.monotonic() - began:.0f} s, {time.process_time() - used:.0f} s of CPU time"
        print(f"{folder.name}: {took}", file=sys.stderr, flush=True)
    with np.load(path) as file:
        if file["settings"] != wanted:
            raise UserError(
                f"{path}: has {file['settings']}; expected {wanted}: choose another folder"
            )
        names = (name.split() for name in file.files if name != "settings")
        found: Found = {(kind, name): file[f"{kind} {name}"] for kind, name in names}
    return found, proxies.load(folder / proxies.FILE)


def rows_of(
    found: dict[str, tuple[Found, proxies.Proxies]],
    estimates: memorization.Estimates,
    experiment: Experiment,
) -> Iterator[tuple[str, ...]]:
    """Yields the rows of the table for one file of estimates."""
    threshold = experiment.config.memorization.threshold
    memorized = of_examples(estimates, experiment.train).astype(np.float64)
    for run, (own, logged) in found.items():
        compared: dict[tuple[str, str], Comparison] = {
            name: proxies.compare_values(values, memorized, threshold=threshold)
            for name, values in own.items()
        }
        for name, comparison in proxies.compare(logged, estimates, threshold=threshold).items():
            compared[LOGGED, name] = comparison
        for (kind, name), comparison in compared.items():
            yield (
                run,
                kind,
                f"`{name}`",
                text(comparison.rank_correlation),
                text(comparison.pearson),
                text(comparison.cosine),
                text(comparison.auroc),
            )


def rows_of_flipped(
    found: dict[str, tuple[Found, proxies.Proxies]], is_flipped: np.ndarray
) -> Iterator[tuple[str, ...]]:
    """Yields the rows of the table of flipped labels."""
    for run, (own, logged) in found.items():
        names = {
            **own,
            (LOGGED, "mean_loss"): logged.mean_loss,
            (LOGGED, "forgetting"): logged.forgetting,
        }
        for (kind, name), values in names.items():
            known = ~np.isnan(values)
            yield run, kind, f"`{name}`", text(auroc(values[known], is_flipped[known]))


def text(measured: Measured) -> str:
    low, high = measured.interval
    return f"{measured.value:.3f} ({low:.3f} to {high:.3f})"


def show(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> None:
    """Prints a table in Markdown."""
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def described(estimates: memorization.Estimates, experiment: Experiment) -> str:
    """Returns the heading of a table."""
    memorized = of_examples(estimates, experiment.train)
    threshold = experiment.config.memorization.threshold
    known, atypical = np.isfinite(memorized).sum(), np.sum(memorized > threshold)
    return (
        f"Memorization of members trained by {estimates.training or 'an unknown method'}, on"
        f" {estimates.inputs or 'unknown'} images ({estimates.source}): {known:,} images,"
        f" {atypical:,} above {threshold:g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the runs are kept")
    parser.add_argument("--estimates", nargs="+", required=True, help="files of estimates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="fewer than the members', for a try")
    parser.add_argument("--draws", type=int, default=10, help="random vectors of the curvature")
    options = parser.parse_args()
    runs = {name: experiment_of(name, options.seed, options.epochs) for name in KINDS}
    (first, *_) = runs.values()
    # Files that do not fit are refused before anything is trained.
    files = [matched(memorization.load(path), first.dataset) for path in options.estimates]
    found = {
        name: proxies_of(run, options.folder / name, options.draws) for name, run in runs.items()
    }
    for estimates in files:
        print(f"\n{described(estimates, first)}\n")
        show(
            ("run", "images", "proxy", "rank correlation", "Pearson", "cosine", "AUROC, atypical"),
            rows_of(found, estimates, first),
        )
    changed = {name: flipped(run) for name, run in runs.items()}
    (_, is_flipped), *_ = changed.values()
    of_flipped = {
        name: proxies_of(run, options.folder / f"{name}_flipped", options.draws)
        for name, (run, _) in changed.items()
    }
    print(f"\n{is_flipped.sum()} of {len(is_flipped):,} labels flipped\n")
    show(
        ("run", "images", "proxy", "AUROC, flipped"),
        rows_of_flipped(of_flipped, is_flipped),
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
