"""Pictures of a finished run, from its checkpoints and its data."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from bat_jax import keys, models
from bat_jax.attacks import pgd_trajectory
from bat_jax.attacks.classifier import correct
from bat_jax.data import Split
from bat_jax.errors import UserError
from bat_jax.evaluation.records import kind_of_tested
from bat_jax.memorization.matching import of_examples
from bat_jax.methods import Attack, Batch
from bat_jax.parallel import AXIS
from bat_jax.report.drawing import Axes, Figure
from bat_jax.report.style import Chart, fitted_lines
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.storage import AnyPath
from bat_jax.training.experiment import Experiment
from bat_jax.training.saved import read_run, read_states
from bat_jax.training.state import Variables
from bat_jax.training.step import training_attack
from bat_jax.training.trouble import CheckpointError

log = logging.getLogger(__name__)

# The number of images attacked at once, and the number that the seed draws from a set.
_BATCH = 128
_DRAWN = 1024
_TRIPLETS = 6
_SHOWN = 12
_TITLE_SIZE = 7.5


class _Attacked(NamedTuple):
    """Images and a model's outputs on them.

    Attributes:
      split: the images.
      adversarial: x'.
      clean_logits: z(x).
      logits: z(x').
      features: h(x').
      robust_steps: kappa, the number of attack steps that each image withstood.
    """

    split: Split
    adversarial: Float[np.ndarray, "images height width channels"]
    clean_logits: Float[np.ndarray, "images classes"]
    logits: Float[np.ndarray, "images classes"]
    features: Float[np.ndarray, "images features"]
    robust_steps: Int32[np.ndarray, " images"]


def of_run(folder: AnyPath) -> list[Chart]:
    """Returns the pictures of a run; warns and returns none if its data or states are missing."""
    try:
        experiment = _with_same_estimates(read_run(folder), folder)
        states = read_states(experiment, folder)
    except (UserError, CheckpointError) as error:
        log.warning("no pictures: %s", error)
        return []
    attack = _attack(experiment)
    charts = [
        _triplets(experiment, attack(states["best"].state.evaluated, experiment.test_images()))
    ]
    is_whole = experiment.estimates is not None or experiment.method.estimates_for is None
    if experiment.method.is_weighted and is_whole:
        attacked = attack(states["last"].state.evaluated, experiment.train)
        charts += _weighted_down(experiment, attacked)
    return charts + most_memorized(experiment)


def _with_same_estimates(experiment: Experiment, folder: AnyPath) -> Experiment:
    """Returns the experiment, without its estimates if they are no longer those of the run."""
    _, digests = workdirs.read(folder / "config.json")
    estimates = experiment.estimates
    if estimates is None or estimates.digest() == digests.get("estimates", estimates.digest()):
        return experiment
    log.warning(
        "no pictures by memorization: %s holds other estimates than %s was made with",
        experiment.config.memorization.estimates,
        folder,
    )
    return dataclasses.replace(experiment, estimates=None)


def most_memorized(experiment: Experiment) -> list[Chart]:
    """Returns the training images with the highest memorization; none without estimates."""
    estimates = experiment.estimates
    if estimates is None:
        return []
    images = experiment.train
    values = of_examples(estimates, images)
    known = np.flatnonzero(~np.isnan(values))
    rows = known[np.argsort(-values[known], kind="stable")][:_SHOWN]
    if not len(rows):
        return []
    names = experiment.dataset.class_names
    texts = [f"{names[images.labels[row]]}\nmem {values[row]:.2f}" for row in rows]
    threshold = experiment.config.memorization.threshold
    return [
        grid(
            "most_memorized",
            "Most memorized training images",
            images.images[rows],
            texts,
            f"Label and estimated memorization, the highest of {len(known)} training images;"
            f" {int(np.sum(values[known] > threshold))} lie above the threshold {threshold:g}.",
        )
    ]


def _attack(experiment: Experiment) -> Callable[[Variables, Split], _Attacked]:
    """Returns the function that attacks images by PGD on cross-entropy, within epsilon.

    Steps and norm are those of the training attack, which may have another loss or start, as that
    of TRADES does, or leave the ball, as that of N-FGSM does.
    """
    config, model = experiment.config, experiment.evaluated()
    settings = dataclasses.replace(
        training_attack(config, Attack(), experiment.programs), project=True, start_radius=1.0
    )

    @jax.jit
    def attack(
        variables: Variables,
        images: Float[Array, "batch height width channels"],
        labels: Int32[Array, " batch"],
        ids: Int32[Array, " batch"],
    ) -> tuple[Array, ...]:
        logits_fn = models.logits_fn(model, variables)
        key = keys.derive(config.seed, keys.Purpose.EVALUATION)
        with jax.default_matmul_precision("highest"):
            found = pgd_trajectory(logits_fn, images, labels, keys.per_image(key, ids), settings)
            outputs: Any = model.apply(variables, found.images, train=False, features=True)
            logits, features = outputs
            if features is None:
                features = jnp.zeros((len(logits), 0))
            clean_logits = logits_fn(images)
        robust_steps = found.robust_steps + correct(logits, labels).astype(jnp.int32)
        return found.images, clean_logits, logits, features, robust_steps

    def of_split(variables: Variables, split: Split) -> _Attacked:
        split = _drawn(split, config.seed)
        variables = jax.device_get(variables)
        parts = []
        for start in range(0, len(split), _BATCH):
            # One static shape: copies of its last image pad the last batch.
            rows = np.minimum(np.arange(start, start + _BATCH), len(split) - 1)
            batch = split.take(rows)
            parts.append(
                attack(
                    variables,
                    np.float32(np.asarray(batch.images)) / 255,
                    batch.labels,
                    np.int32(batch.ids),
                )
            )
        found = [np.concatenate([np.asarray(part[n]) for part in parts]) for n in range(5)]
        return _Attacked(split, *(array[: len(split)] for array in found))

    return of_split


def _drawn(split: Split, seed: int) -> Split:
    """Returns at most `_DRAWN` images, in random order."""
    key = keys.derive(seed, keys.Purpose.SUBSET)
    order = np.asarray(jax.random.permutation(key, len(split)), np.int64)
    return split.take(order[:_DRAWN])


def _triplets(experiment: Experiment, attacked: _Attacked) -> Chart:
    """Returns images that the attack breaks and images that withstand it, half each if possible."""
    config, names = experiment.config, experiment.dataset.class_names
    labels = attacked.split.labels.tolist()
    truth = attacked.split.labels
    is_clean = np.argmax(attacked.clean_logits, axis=-1) == truth
    broken = np.flatnonzero(is_clean & (np.argmax(attacked.logits, axis=-1) != truth))
    standing = np.flatnonzero(is_clean & (np.argmax(attacked.logits, axis=-1) == truth))
    half = _TRIPLETS // 2
    rows = [*broken[: max(half, _TRIPLETS - len(standing))], *standing][:_TRIPLETS]
    rows = rows or list(range(min(_TRIPLETS, len(labels))))

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(rows), 3, squeeze=False)
        for number, (line, row) in enumerate(zip(grid, rows, strict=True)):
            clean = attacked.split.images[row].astype(np.float32) / 255
            moved = (attacked.adversarial[row] - clean) / (2 * config.attack.epsilon or 1) + 0.5
            shown = (
                (clean, _prediction(attacked.clean_logits[row], labels[row], names)),
                (attacked.adversarial[row], _prediction(attacked.logits[row], labels[row], names)),
                (moved, "perturbation" if number == 0 else ""),
            )
            for axes, (image, text) in zip(line, shown, strict=True):
                _show(axes, image, text, columns=3)

    words = "; ".join(
        f"{names[labels[row]]}:"
        f" clean {_prediction(attacked.clean_logits[row], labels[row], names)},"
        f" attacked {_prediction(attacked.logits[row], labels[row], names)}".replace("\n", " ")
        for row in rows
    )
    epsilon = f"{config.attack.norm.capitalize()} {config.attack.epsilon:.4g}"
    kind = kind_of_tested(config.data.tested)
    return Chart(
        "triplets",
        "Clean, adversarial, perturbation",
        f"Images in three columns: clean, attacked, and their difference. Predictions: {words}.",
        "Above an image: the best checkpoint's prediction and its probability; \N{CHECK MARK} marks"
        f" a correct one. Attack: PGD-{config.attack.num_steps}, {epsilon}. The first"
        f" {len(rows)} of {len(labels)} randomly drawn {kind}: half broken by the attack, half"
        " not, if there are enough of both; none chosen by hand. The perturbation is scaled to gray"
        " \N{PLUS-MINUS SIGN} epsilon.",
        draw,
        height=1.5 * len(rows),
    )


def _weighted_down(experiment: Experiment, attacked: _Attacked) -> list[Chart]:
    """Returns the training images with the lowest weights; none if all weights are 1 or more."""
    names, split, method = experiment.dataset.class_names, attacked.split, experiment.method
    known = np.full(len(split), np.nan, np.float32)
    if experiment.estimates is not None:
        known = of_examples(experiment.estimates, split)
    batch = Batch(
        labels=jnp.asarray(split.labels),
        logits=jnp.asarray(attacked.logits),
        features=jnp.asarray(attacked.features),
        clean_logits=None if method.clean is None else jnp.asarray(attacked.clean_logits),
        robust_steps=jnp.asarray(attacked.robust_steps),
        memorization=jnp.asarray(known),
        epoch=jnp.asarray(jnp.inf),
    )
    # The images form a global batch of their own, on one device.
    weights = np.asarray(jax.vmap(method.weights, axis_name=AXIS)(jax.tree.map(_alone, batch))[0])
    rows = np.argsort(weights, kind="stable")[:_SHOWN]
    rows = rows[weights[rows] < 1]
    if not len(rows):
        return []
    reading = attacked.clean_logits if method.clean == "read" else attacked.logits
    texts = [
        f"{names[label]} vs.\n{names[_wrong(reading[row], label)]}; w {weights[row]:.2f}"
        for row, label in zip(rows, split.labels[rows].tolist(), strict=True)
    ]
    return [
        grid(
            "most_weighted_down",
            "Training images with the lowest weights",
            split.images[rows],
            texts,
            "Label, most probable wrong class, and weight w under the last checkpoint: the lowest"
            f" weights of {len(split)} randomly drawn training images.",
        )
    ]


def _alone(array: Array) -> Array:
    """Returns the array with a leading dimension of one device."""
    return array[None]


def grid(
    name: str,
    title: str,
    images: UInt8[np.ndarray, "images height width channels"],
    texts: Sequence[str],
    caption: str,
) -> Chart:
    """Returns a chart of images with a text above each, four per row."""
    columns = 4
    lines = -(-len(images) // columns)

    def draw(figure: Figure) -> None:
        cells = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, image, text in zip(cells, images, texts, strict=False):
            _show(axes, image.astype(np.float32) / 255, text, columns=columns)
        for axes in cells[len(images) :]:
            axes.set_axis_off()

    words = "; ".join(text.replace("\n", " ") for text in texts)
    return Chart(name, title, f"{len(images)} images. {words}.", caption, draw, height=1.45 * lines)


def _show(
    axes: Axes, image: Float[np.ndarray, "height width channels"], text: str, *, columns: int
) -> None:
    """Draws one of several adjacent images, with a text above it."""
    axes.imshow(
        np.clip(image.squeeze(-1) if image.shape[-1] == 1 else image, 0, 1),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axes.set_axis_off()
    title = fitted_lines(text, inches=3.7 / columns, size=_TITLE_SIZE)
    axes.set_title(title, fontsize=_TITLE_SIZE)


def _prediction(logits: Float[np.ndarray, " classes"], label: int, names: Sequence[str]) -> str:
    shifted = np.exp(logits - logits.max())
    predicted = int(np.argmax(logits))
    mark = " \N{CHECK MARK}" if predicted == label else ""
    return f"{names[predicted]}{mark}\n{100 * shifted[predicted] / shifted.sum():.0f} %"


def _wrong(logits: Float[np.ndarray, " classes"], label: int) -> int:
    """Returns the most probable class other than the label."""
    others = logits.copy()
    others[label] = -np.inf
    return int(np.argmax(others))
