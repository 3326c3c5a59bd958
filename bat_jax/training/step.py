"""The train step: one device's share of a global batch, from data to updated state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Int32, Key
from ml_collections import ConfigDict

from bat_jax import backend, keys
from bat_jax.attacks import PgdSettings, Trajectory, pgd_trajectory
from bat_jax.attacks.classifier import correct
from bat_jax.data.device import DeviceSplit, augment, to_unit
from bat_jax.parallel import AXIS
from bat_jax.training import accumulation
from bat_jax.training.objectives import Batch, Metrics, Objective
from bat_jax.training.state import TrainState, Variables

Images = Float[Array, "batch height width channels"]
TrainStep = Callable[
    [TrainState, DeviceSplit, Int32[Array, "steps batch_size"], Key[Array, ""]],
    tuple[TrainState, Metrics],
]


class Outputs(NamedTuple):
    """What the model gives for a batch; clean logits where the objective asks for them."""

    logits: Float[Array, "batch classes"]
    features: Float[Array, "batch features"]
    clean_logits: Float[Array, "batch classes"] | None


def make_train_step(
    model: nn.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> TrainStep:
    """Returns `step(state, data, order, root) -> (state, metrics)`, for one device of `AXIS`.

    Every device holds the same state, data, order (the epoch's batches, from `epoch_order`) and
    root (the key that all draws follow from, `bat_jax.parallel.root` of the seed), takes its share
    of the batch that `state.step` points at, and returns the same new state and metrics. Draws
    belong to an image's place in the global batch, sums run over the axis: the result does not
    depend on the number of devices, up to the order of float additions.

    Args:
      model: from `bat_jax.models.create`, its batch norm synchronised over `AXIS` or not.
      objective: the method.
      optimizer: an optax transformation of the parameters.
      config: the whole config; read are `attack`, `data` and `train`.
    """
    trainee = model
    if objective.attack_loss is None:
        trainee = model.clone(lowering=backend.without_attacks(model.lowering))

    def step(
        state: TrainState,
        data: DeviceSplit,
        order: Int32[Array, "steps batch_size"],
        root: Key[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        steps_per_epoch, batch_size = order.shape
        share = batch_size // jax.lax.axis_size(AXIS)
        places = jax.lax.axis_index(AXIS) * share + jnp.arange(share)
        batch_rows = order[state.step % steps_per_epoch]
        rows = batch_rows[places]

        images = to_unit(data.images[rows])
        labels = data.labels[rows]
        images = augment(
            images,
            keys.per_image(keys.derive(root, keys.Purpose.AUGMENTATION, state.step), places),
            crop_padding=config.data.crop_padding,
            flip=config.data.flip,
        )
        attack_keys = keys.per_image(keys.derive(root, keys.Purpose.ATTACK, state.step), places)
        parts = config.train.accumulation
        adversarial = accumulation.mapped(
            lambda part: attack(state.variables, *part), (images, labels, attack_keys), parts=parts
        )

        def loss(outputs: Outputs) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
            is_correct = correct(outputs.logits, labels)
            example_losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
            value, metrics = objective.loss(
                Batch(
                    labels=labels,
                    logits=outputs.logits,
                    features=outputs.features,
                    clean_logits=outputs.clean_logits,
                    robust_steps=adversarial.robust_steps + is_correct.astype(jnp.int32),
                    memorization=data.memorization[rows],
                    epoch=state.step / steps_per_epoch,
                )
            )
            return value, (metrics, (example_losses, is_correct))

        params = state.variables["params"]
        (value, ((metrics, seen), variables)), gradients = accumulation.value_and_grad(
            forward, loss, state.variables, (images, adversarial.images), parts=parts
        )
        # The loss is the global one on every device: its gradient is the mean of the devices'.
        gradients = jax.lax.pmean(gradients, AXIS)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        variables = {**variables, "params": optax.apply_updates(params, updates)}
        if "batch_stats" in variables:
            # Equal already where batch norm is synchronised.
            variables["batch_stats"] = jax.lax.pmean(variables["batch_stats"], AXIS)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(variables, ema, 1.0 - config.train.ema)
        history = state.history
        if history is not None:
            history = history.after(batch_rows, *jax.lax.all_gather(seen, AXIS, tiled=True))
        _, is_correct = seen
        metrics = {
            "loss": value,
            "accuracy": jax.lax.pmean(jnp.mean(is_correct.astype(jnp.float32)), AXIS),
            "gradient_norm": optax.tree.norm(gradients),
            **metrics,
        }
        return TrainState(state.step + 1, variables, opt_state, ema, history), metrics

    def forward(variables: Variables, pair: tuple[Images, Images]) -> tuple[Outputs, Variables]:
        """Returns the outputs for images and their adversarial ones, and the new statistics."""
        images, adversarial = pair
        clean_logits = None
        if objective.clean == "trained":
            (clean_logits, _), variables = trained(variables, images)
        elif objective.clean == "read":
            clean_logits = model.apply(variables, images, train=False)
        (logits, features), variables = trained(variables, adversarial)
        return Outputs(logits, features, clean_logits), variables

    def trained(variables: Variables, images: Images) -> tuple[Any, Variables]:
        """Returns (logits, features) in training mode and the variables with new statistics."""
        outputs, updated = trainee.apply(
            variables, images, train=True, features=True, mutable=["batch_stats"]
        )
        return outputs, {**variables, **updated}

    def attack(
        variables: Variables,
        images: Images,
        labels: Int[Array, "batch"],
        attack_keys: Key[Array, "batch"],
    ) -> Trajectory:
        if objective.attack_loss is None:
            return Trajectory(
                images, jnp.zeros(labels.shape, jnp.int32), jnp.zeros(labels.shape, bool)
            )
        return pgd_trajectory(
            attacked(model, variables, config.attack.batch_norm),
            images,
            labels,
            attack_keys,
            PgdSettings(
                epsilon=config.attack.epsilon,
                step_size=config.attack.step_size,
                num_steps=config.attack.num_steps,
                norm=config.attack.norm,
                loss=objective.attack_loss,
                random_start=config.attack.random_start,
                gaussian_start=objective.gaussian_start if config.attack.random_start else 0.0,
                unroll=backend.unrolls_attacks(config.attack.unroll, lowering=model.lowering),
            ),
        )

    return step


def attacked(
    model: nn.Module, variables: Variables, batch_norm: str
) -> Callable[[Images], Float[Array, "batch classes"]]:
    """Returns the logits that an attack sees, with `running` or `batch` statistics.

    Batch statistics are computed and thrown away: an attack leaves the model as it was.
    """

    def logits_fn(images: Images) -> Float[Array, "batch classes"]:
        # `mutable` makes apply return the changed statistics beside the logits; nobody takes them.
        logits, _ = model.apply(
            variables, images, train=batch_norm == "batch", mutable=["batch_stats"]
        )
        return logits

    return logits_fn
