"""How well images made against one model fool others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from bat_jax import keys, models
from bat_jax.attacks import PgdSettings, pgd_trajectory
from bat_jax.attacks.classifier import correct
from bat_jax.data import Split
from bat_jax.data.device import to_unit
from bat_jax.models import Classifier


class Trained(NamedTuple):
    """A model with its variables."""

    model: Classifier
    variables: Mapping[str, Any]


def transfer(
    classifiers: Sequence[Trained],
    images: Split,
    settings: PgdSettings,
    *,
    seed: int,
    batch_size: int,
    progress: Callable[[int], object] = lambda images: None,
) -> tuple[Bool[np.ndarray, "models images"], Bool[np.ndarray, "sources targets images"]]:
    """Attacks every model by PGD and shows the images to all of them.

    A target is robust to an image of a source where it classifies both the clean and the attacked
    image correctly, so that the diagonal is each model's own accuracy under PGD. The draws belong
    to an image's id, as in the evaluation of a run.

    Args:
      classifiers: computing in float32; each is source and target.
      images: the test images.
      settings: of PGD.
      seed: of the random starts.
      batch_size: images at a time.
      progress: called with the number of images after each batch.

    Returns:
      Whether each model classifies each clean image correctly, and whether each target is robust to
      each image made against each source.
    """
    key = keys.derive(jax.random.key(seed), keys.Purpose.EVALUATION)
    attacks = [_attack(one.model, settings) for one in classifiers]
    judges = [_judge(one.model) for one in classifiers]
    clean, robust = [], []
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, start + batch_size)
        # One static shape: the last batch is padded with copies of the last image.
        part = images.take(np.minimum(rows, len(images) - 1))
        x, labels = to_unit(jnp.asarray(np.asarray(part.images))), jnp.asarray(part.labels)
        image_keys = keys.per_image(key, jnp.asarray(part.ids, jnp.int32))
        shown = [x] + [
            attack(one.variables, x, labels, image_keys)
            for attack, one in zip(attacks, classifiers, strict=True)
        ]
        verdicts = np.stack(
            [
                [np.asarray(judge(one.variables, each, labels)) for each in shown]
                for judge, one in zip(judges, classifiers, strict=True)
            ],
            axis=1,
        )
        count = min(batch_size, len(images) - start)
        clean.append(verdicts[0, :, :count])
        robust.append((verdicts[1:] & verdicts[:1])[..., :count])
        progress(count)
    return np.concatenate(clean, axis=-1), np.concatenate(robust, axis=-1)


def _attack(model: Classifier, settings: PgdSettings) -> Callable[..., Any]:
    @jax.jit
    def attacked(
        variables: Mapping[str, Any],
        images: Float[Array, "batch height width channels"],
        labels: Int32[Array, " batch"],
        image_keys: Any,
    ) -> Float[Array, "batch height width channels"]:
        with jax.default_matmul_precision("highest"):
            logits_fn = models.logits_fn(model, variables)
            return pgd_trajectory(logits_fn, images, labels, image_keys, settings).images

    return attacked


def _judge(model: Classifier) -> Callable[..., Any]:
    @jax.jit
    def judged(
        variables: Mapping[str, Any],
        images: Float[Array, "batch height width channels"],
        labels: Int32[Array, " batch"],
    ) -> Bool[Array, " batch"]:
        with jax.default_matmul_precision("highest"):
            return correct(models.logits_fn(model, variables)(images), labels)

    return judged
