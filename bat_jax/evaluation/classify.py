"""Classifies whole sets of images, clean and under PGD."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key
from ml_collections import ConfigDict

from bat_jax import keys, models, parallel
from bat_jax.attacks import PgdSettings, pgd_trajectory
from bat_jax.attacks.classifier import correct
from bat_jax.attacks.inner_losses import Loss, LossName
from bat_jax.data.device import DeviceSplit, StreamedSplit, TrainData, to_unit
from bat_jax.data.feeding import Resident, Streamed
from bat_jax.evaluation.records import CLEAN, Measure
from bat_jax.kernels.programs import Programs
from bat_jax.parallel import AXIS

# By the key of a measure.
Verdicts = dict[str, Bool[np.ndarray, " images"]]


class Evaluator:
    """Classifies all images of a set, in batches of one static shape.

    The last batch is padded with copies of the last image, whose verdicts are dropped. The model
    computes in float32 with the highest matrix precision. An image's random draws follow from the
    seed and its id, so that verdicts depend neither on the batch size nor on the devices.
    """

    def __init__(
        self,
        model: models.Classifier,
        config: ConfigDict,
        mesh: Mesh,
        programs: Programs,
        *,
        losses: tuple[LossName, ...],
        num_steps: int | None = None,
        others: Mapping[str, PgdSettings] | None = None,
    ):
        """Prepares the evaluation; it compiles at the first set of a new shape.

        Args:
          model: a model that computes in float32.
          config: the whole config; `attack` (norm, epsilon), `evaluation` and `seed` are read.
          mesh: the devices that share a batch.
          programs: the forms that suit the back end.
          losses: the losses that PGD maximises, one attack each.
          num_steps: of PGD; defaults to `evaluation.num_steps`.
          others: further attacks, by the names of their verdicts.
        """
        steps = config.evaluation.num_steps if num_steps is None else num_steps
        attacks = {
            Measure.pgd(steps, loss).key: evaluation_attack(config, programs, loss, num_steps=steps)
            for loss in losses
        } | dict(others or {})
        parallel.check_divisible("config.evaluation.batch_size", config.evaluation.batch_size, mesh)
        self._batch_size = config.evaluation.batch_size
        self._root = parallel.root(config.seed, mesh)
        step = _make_step(model, attacks, batch_size=self._batch_size)
        specs: Any = StreamedSplit
        streamed = specs(parallel.SHARED, *(parallel.REPLICATED,) * 3)
        self._step, self._streamed_step = (
            parallel.over_devices(
                step,
                mesh,
                in_specs=(parallel.REPLICATED, data, parallel.REPLICATED, parallel.REPLICATED),
                out_specs=parallel.REPLICATED,
            )
            for data in (parallel.REPLICATED, streamed)
        )

    def __call__(
        self,
        variables: Mapping[str, Any],
        data: DeviceSplit | Streamed,
        progress: Callable[[int], object] = lambda images: None,
    ) -> Verdicts:
        """Returns, per attack, whether each image is classified correctly, in the order of `data`.

        Args:
          variables: the model's.
          data: the images, on the devices of the mesh or in batches from the host.
          progress: called with the number of images after each batch.
        """
        examples = len(data.labels)
        if isinstance(data, Streamed):
            step, feed = self._streamed_step, data.batches
        else:
            step, feed = self._step, Resident(data).batches
        starts = range(0, examples, self._batch_size)
        rows = np.arange(len(starts) * self._batch_size, dtype=np.int32)
        order = np.minimum(rows, examples - 1).reshape(len(starts), self._batch_size)
        parts = []
        for start, batch in zip(starts, feed(order, 0), strict=True):
            parts.append(step(variables, batch, np.int32(start), self._root))
            # Wait for the previous batch only, so that the device is never idle.
            if len(parts) > 1:
                jax.block_until_ready(parts[-2])
            progress(min(self._batch_size, examples - start))
        return {
            name: np.concatenate([jax.device_get(part[name]) for part in parts])[:examples]
            for name in parts[0]
        }


def _make_step(
    model: models.Classifier, attacks: Mapping[str, PgdSettings], *, batch_size: int
) -> Callable[..., Any]:
    def step(
        variables: Mapping[str, Any],
        data: TrainData,
        start: Int[Array, ""],
        root: Key[Array, ""],
    ) -> dict[str, Bool[Array, " batch"]]:
        share = batch_size // jax.lax.axis_size(AXIS)
        rows = start + jax.lax.axis_index(AXIS) * share + jnp.arange(share)
        rows = jnp.minimum(rows, len(data.labels) - 1)
        images = data.batch if isinstance(data, StreamedSplit) else data.images[rows]
        images, labels = to_unit(images), data.labels[rows]
        key = keys.derive(root, keys.Purpose.EVALUATION)
        image_keys = keys.per_image(key, data.ids[rows])
        logits_fn = models.logits_fn(model, variables)

        with jax.default_matmul_precision("highest"):
            verdicts = {CLEAN.key: correct(logits_fn(images), labels)}
            for name, settings in attacks.items():
                attacked = pgd_trajectory(logits_fn, images, labels, image_keys, settings).images
                # The ball contains the clean image: if that is misclassified, the attack succeeds.
                verdicts[name] = verdicts[CLEAN.key] & correct(logits_fn(attacked), labels)
        # Every process gets those of all devices.
        return {name: jax.lax.all_gather(v, AXIS, tiled=True) for name, v in verdicts.items()}

    return step


def evaluation_attack(
    config: ConfigDict, programs: Programs, loss: Loss, *, num_steps: int | None = None
) -> PgdSettings:
    """Returns the PGD attack of an evaluation.

    Args:
      config: the whole config; `attack` (norm, epsilon) and `evaluation` are read.
      programs: the forms that suit the back end.
      loss: what the attack maximises.
      num_steps: defaults to `evaluation.num_steps`.
    """
    return PgdSettings(
        epsilon=config.attack.epsilon,
        step_size=config.evaluation.step_size,
        num_steps=config.evaluation.num_steps if num_steps is None else num_steps,
        norm=config.attack.norm,
        loss=loss,
        unroll=programs.unroll,
    )
