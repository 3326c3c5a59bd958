"""The train step: one device's share of a global batch, from data to updated state."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Int32, Key
from ml_collections import ConfigDict

from bat_jax import keys, models
from bat_jax.attacks import PgdSettings, Trajectory, pgd_trajectory
from bat_jax.attacks.classifier import LogitsFn, correct
from bat_jax.data.device import TrainData
from bat_jax.kernels.programs import Programs
from bat_jax.methods import Attack, Batch, Gradient, Memory, Method, Metrics, Visit, awp, mean
from bat_jax.parallel import AXIS
from bat_jax.training import accumulation, averaging
from bat_jax.training.accepted import check_before, check_loss
from bat_jax.training.share import Images, Share, Targets, share_of
from bat_jax.training.state import TrainState, Variables


class Outputs(NamedTuple):
    """The model's outputs for a batch; clean logits and extras if the method requests them."""

    logits: Float[Array, "batch classes"]
    features: Float[Array, "batch features"] | None
    clean_logits: Float[Array, "batch classes"] | None
    extras: dict[str, Any]


class Inputs(NamedTuple):
    """The inputs of a forward pass; with labels and keys if the method computes extras.

    The first of `dropout_keys` is the key of dropout in a forward pass.
    """

    images: Images
    adversarial: Images
    dropout_keys: Key[Array, " batch"]
    labels: Int[Array, " batch"] | None = None
    image_keys: Key[Array, " batch"] | None = None


class Seen(NamedTuple):
    """The auxiliary outputs of the loss.

    Attributes:
      metrics: the method's own metrics over the global batch.
      accuracy: the accuracy on the training images of the global batch.
      observed: for each memory, the values to store for this share.
    """

    metrics: Metrics
    accuracy: Float[Array, ""]
    observed: dict[str, Any]


class TrainStep:
    """The step from one train state to the next, for one device of `AXIS`.

    Every device holds the same state, data, order and root, takes its share of the batch that
    `state.step` selects, and returns the same new state and metrics. Random draws depend on an
    image's position in the global batch and sums run over the axis, so that the result does not
    depend on the number of devices, up to the order of float additions.
    """

    def __init__(
        self,
        model: models.Classifier,
        method: Method,
        optimizer: optax.GradientTransformation,
        config: ConfigDict,
        programs: Programs,
    ) -> None:
        """Prepares a step.

        Args:
          model: with or without batch norm synchronised over `AXIS`.
          method: the training method.
          optimizer: an optax transformation of the parameters.
          config: the whole config; `attack`, `data`, `objective` and `train` are read.
          programs: the forms that suit the back end.
        """
        self._model = models.with_conv(model, programs.convolution("training"))
        self._attacked = models.with_conv(model, programs.convolution("attack"))
        self._method, self._optimizer, self._config = method, optimizer, config
        self._settings: PgdSettings | None = None
        if method.attack is not None:
            self._settings = training_attack(config, method.attack, programs)

    def __call__(
        self,
        state: TrainState,
        data: TrainData,
        order: Int32[Array, "steps batch_size"],
        root: Key[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        """Returns the next state and the metrics of the batch.

        Args:
          state: the state.
          data: the training split.
          order: rows of the epoch's batches, from `epoch_order`.
          root: the root key of all random draws, `bat_jax.parallel.root` of the seed.

        Returns:
          The state, and metrics over the global batch: `loss`, `accuracy`, `gradient_norm`, the
          method's own and, with an attack, `lost_gradient`, the share of images with a non-finite
          gradient.
        """
        share = share_of(state.step, data, order, root, self._config, self._method)
        if self._method.looks_before:
            share = share._replace(before=self._before(state, share, root))
        attacked = self._attack(state, share, root)
        found = self._gradient(state, data, share, attacked, root)
        metrics = {
            "loss": found.loss,
            "accuracy": found.aux.accuracy,
            "gradient_norm": optax.tree.norm(found.params),
            **found.aux.metrics,
        }
        if self._settings is not None:
            metrics["lost_gradient"] = mean(attacked.lost_gradient.astype(jnp.float32))
        return self._updated(state, share, found, steps_per_epoch=len(order)), metrics

    def refreshed(
        self,
        state: TrainState,
        data: TrainData,
        order: Int32[Array, "steps batch_size"],
        root: Key[Array, ""],
    ) -> TrainState:
        """Returns the state with its average's batch statistics recomputed, for SWA.

        They are the means over the clean augmented batches of the epoch that ends with this state,
        computed with the averaged parameters, which no training step has used. As in training, the
        statistics of an accumulated batch are the means over its parts.

        Args:
          state: the state after the last step of an epoch.
          data: the training split.
          order: rows of the epoch's batches.
          root: the root key of all random draws.
        """
        average = state.ema
        if average is None or "batch_stats" not in average:
            return state
        steps, first = len(order), state.step - len(order)

        def of_step(number: Int[Array, ""]) -> Any:
            share = share_of(first + number, data, order, root, self._config, self._method)
            dropout_keys = _dropout_keys(root, first + number, share.places)

            def of_part(part: tuple[Images, Key[Array, " part"]]) -> Any:
                images, part_keys = part

                def trained(variables: Variables, images: Images) -> tuple[Any, Variables]:
                    return self._trained(variables, images, part_keys)

                return averaging.batch_statistics(trained, average, images)

            return accumulation.averaged(
                of_part, (share.images, dropout_keys), parts=self._config.train.accumulation
            )

        def add(sums: Any, number: Int[Array, ""]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, of_step(number)), None

        sums, _ = jax.lax.scan(
            add, jax.tree.map(jnp.zeros_like, average["batch_stats"]), jnp.arange(steps)
        )
        means = jax.lax.pmean(jax.tree.map(lambda total: total / steps, sums), AXIS)
        return state.replace(ema={**average, "batch_stats": means})

    def _before(self, state: TrainState, share: Share, root: Key[Array, ""]) -> Any:
        """Returns the result of the method's `before` for the share."""
        logits = accumulation.mapped(
            self._attacked_logits(state, root),
            share.images,
            parts=self._config.train.accumulation,
        )
        visit = Visit(share.labels, logits, _rows_of(state.memory, share.rows), share.epoch)
        return check_before(self._method, self._method.before(visit), len(share.labels))

    def _attacked_logits(self, state: TrainState, root: Key[Array, ""]) -> LogitsFn:
        """Returns the model as the attack sees it."""
        return models.logits_fn(
            self._attacked,
            state.variables,
            batch_norm=self._config.attack.batch_norm,
            key=keys.derive(root, keys.Purpose.DROPOUT, state.step),
        )

    def _attack(self, state: TrainState, share: Share, root: Key[Array, ""]) -> Trajectory:
        """Returns the adversarial images of the share, or the clean ones without an attack."""
        settings = self._settings
        if settings is None:
            none = jnp.zeros(share.labels.shape, jnp.int32)
            return Trajectory(share.images, none, none.astype(bool))
        attack_keys = keys.per_image(
            keys.derive(root, keys.Purpose.ATTACK, state.step), share.places
        )
        logits_fn = self._attacked_logits(state, root)

        def of_part(
            part: tuple[Images, Int[Array, " part"], Key[Array, " part"], Targets | None, Any],
        ) -> Trajectory:
            images, labels, part_keys, targets, before = part
            return pgd_trajectory(
                logits_fn,
                images,
                labels,
                part_keys,
                _informed(settings, before),
                targets=targets,
                scale=share.scale,
            )

        return accumulation.mapped(
            of_part,
            (share.images, share.labels, attack_keys, share.targets, share.before),
            parts=self._config.train.accumulation,
        )

    def _gradient(
        self,
        state: TrainState,
        data: TrainData,
        share: Share,
        attacked: Trajectory,
        root: Key[Array, ""],
    ) -> Gradient:
        """Returns the loss over the global batch and its gradient."""
        dropout_keys = _dropout_keys(root, state.step, share.places)
        inputs = Inputs(share.images, attacked.images, dropout_keys)
        if self._method.has_extras:
            key = keys.derive(root, keys.Purpose.EXTRAS, state.step)
            image_keys = keys.per_image(key, share.places)
            inputs = inputs._replace(labels=share.labels, image_keys=image_keys)

        def loss(outputs: Outputs) -> tuple[Float[Array, ""], Seen]:
            is_correct = correct(outputs.logits, share.labels)
            batch = Batch(
                labels=share.labels,
                logits=outputs.logits,
                features=outputs.features,
                clean_logits=outputs.clean_logits,
                robust_steps=attacked.robust_steps + is_correct.astype(jnp.int32),
                memorization=data.memorization[share.rows],
                epoch=share.epoch,
                targets=share.targets,
                memory=_rows_of(state.memory, share.rows),
                before=share.before,
                extras=outputs.extras,
            )
            value, metrics = check_loss(self._method, self._method.loss(batch))
            observed = {name: memory.observed(batch) for name, memory in state.memory.items()}
            accuracy = jax.lax.pmean(jnp.mean(is_correct.astype(jnp.float32)), AXIS)
            return value, Seen(metrics, accuracy, observed)

        epsilon = self._config.attack.epsilon
        if share.scale is not None:
            epsilon *= share.scale

        def value_and_grad(variables: Variables) -> Gradient:
            found = accumulation.value_and_grad(
                functools.partial(self._forward, epsilon=epsilon),
                loss,
                variables,
                inputs,
                parts=self._config.train.accumulation,
            )
            # Every device computes the global loss, so its gradient is the mean over devices.
            return found._replace(params=jax.lax.pmean(found.params, AXIS))

        return awp.gradient(
            self._method,
            value_and_grad,
            state.variables,
            epoch=share.epoch,
            gamma=self._config.objective.awp.gamma,
            start_epoch=self._config.objective.awp.start_epoch,
        )

    def _forward(
        self, variables: Variables, inputs: Inputs, *, epsilon: float | Float[Array, ""]
    ) -> tuple[Outputs, Variables]:
        """Returns the outputs for clean and adversarial images, and the updated variables."""
        images, adversarial, dropout_keys, labels, image_keys = inputs
        clean_logits, extras = None, {}
        if self._method.has_extras:
            assert labels is not None
            assert image_keys is not None
            logits_fn = models.logits_fn(
                self._model, variables, batch_norm="batch", key=dropout_keys[0]
            )
            extras = self._method.extras(logits_fn, images, labels, image_keys, epsilon=epsilon)
        if self._method.clean == "trained":
            (clean_logits, _), variables = self._trained(variables, images, dropout_keys)
        elif self._method.clean == "read":
            clean_logits = jax.lax.stop_gradient(self._model.apply(variables, images, train=False))
        (logits, features), variables = self._trained(variables, adversarial, dropout_keys)
        return Outputs(logits, features, clean_logits, extras), variables

    def _trained(
        self, variables: Variables, images: Images, dropout_keys: Key[Array, " batch"]
    ) -> tuple[Any, Variables]:
        """Returns (logits, features) in training mode and the variables with new statistics."""
        outputs, updated = self._model.apply(
            variables,
            images,
            train=True,
            features=True,
            mutable=["batch_stats"],
            rngs={"params": dropout_keys[0]},
        )
        return outputs, {**variables, **updated}

    def _updated(
        self, state: TrainState, share: Share, found: Gradient, *, steps_per_epoch: int
    ) -> TrainState:
        """Returns the state after the update."""
        params = state.variables["params"]
        decayed = params if found.decayed is None else found.decayed
        updates, opt_state = self._optimizer.update(found.params, state.opt_state, decayed)
        variables = {**found.variables, "params": optax.apply_updates(params, updates)}
        if "batch_stats" in variables:
            # Already equal if batch norm is synchronised.
            variables["batch_stats"] = jax.lax.pmean(variables["batch_stats"], AXIS)
        ema = state.ema
        if ema is not None:
            ema = averaging.updated(
                ema, variables, state.step, self._config.train, steps_per_epoch=steps_per_epoch
            )
        observed = jax.lax.all_gather(found.aux.observed, AXIS, tiled=True)
        memory = {
            name: memory.after(share.batch_rows, observed[name])
            for name, memory in state.memory.items()
        }
        return TrainState(state.step + 1, variables, opt_state, ema, memory)


def _dropout_keys(
    root: Key[Array, ""], step: Int[Array, ""], places: Int[Array, " batch"]
) -> Key[Array, " batch"]:
    """Returns a key per image; a forward pass uses the key of its first image."""
    return keys.per_image(keys.derive(root, keys.Purpose.DROPOUT, step), places)


def _rows_of(memory: dict[str, Memory], rows: Int32[Array, " batch"]) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: leaf[rows], memory)


def _informed(settings: PgdSettings, before: Any) -> PgdSettings:
    """Returns the settings with a loss that receives the result of the method's `before`."""
    loss = settings.loss
    if before is None or isinstance(loss, str):
        return settings
    return dataclasses.replace(settings, loss=lambda logits, labels: loss(logits, labels, before))


def training_attack(config: ConfigDict, attack: Attack, programs: Programs) -> PgdSettings:
    """Returns the settings of a method's training attack.

    Args:
      config: the whole config; `attack` is read.
      attack: the method's attack.
      programs: the forms that suit the back end.
    """
    settings, loss = config.attack, attack.loss
    # The divergence from p(x) has no mixed targets. The attack maximises the cross-entropy with the
    # mixed targets instead, as in the published recipe with CutMix.
    if config.data.cutmix and loss == "kl":
        loss = "cross_entropy"
    return PgdSettings(
        epsilon=settings.epsilon,
        step_size=settings.step_size,
        num_steps=settings.num_steps,
        norm=settings.norm,
        loss=loss,
        random_start=settings.random_start,
        start_radius=settings.start_radius,
        gaussian_start=attack.gaussian_start if settings.random_start else 0.0,
        project=settings.project,
        unroll=programs.unroll,
    )
