"""An ensemble whose members train together, each on its own random subset.

Members use the trainer's step with their own key in place of the seed: the subset, initialisation,
order, augmentation and attacks follow from (seed, member). Members are divided among the devices;
those of one device train sequentially in one program (`map`, for CPU) or all at once (`vmap`, for
GPU and TPU). A member's result does not depend on the other members, but for float rounding, which
may differ with the number that train at once.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Int32, Key, Shaped

from bat_jax import keys, models
from bat_jax.attacks import pgd_trajectory
from bat_jax.attacks.classifier import correct
from bat_jax.attacks.inner_losses import margin
from bat_jax.data.device import (
    USABLE,
    DeviceSplit,
    epoch_order,
    free_bytes,
    shapes,
    to_devices,
    to_unit,
)
from bat_jax.errors import UserError
from bat_jax.evaluation.classify import evaluation_attack
from bat_jax.keys import Purpose
from bat_jax.memorization.matching import of_examples
from bat_jax.memorization.store import Scores, recorded
from bat_jax.parallel import AXIS
from bat_jax.runtime import distributed
from bat_jax.training import cautions, state
from bat_jax.training.accepted import check_memory
from bat_jax.training.building import planned
from bat_jax.training.experiment import Experiment
from bat_jax.training.loop import NonFiniteError
from bat_jax.training.state import TrainState, Variables
from bat_jax.training.step import TrainStep

_MEMBER = "member"
# With sequential members, larger rounds only save returns to the host.
_MOST_MAPPED = 16


def subset(
    seed: keys.Seed, member: int | Int[Array, ""], *, examples: int, size: int
) -> Int32[Array, " size"]:
    """Returns the rows that a member trains on, a uniformly random subset."""
    key = keys.derive(seed, Purpose.SUBSET, member)
    return jax.random.permutation(key, examples)[:size].astype(jnp.int32)


def subset_size(experiment: Experiment) -> int:
    """Returns how many images a member trains on."""
    return round(experiment.config.memorization.ratio * len(experiment.train))


class Ensemble:
    """Trains members in rounds."""

    def __init__(self, experiment: Experiment, *, members: int, sharing: int = 1):
        """Prepares the programs and computes the round size.

        Args:
          experiment: the experiment of each member; subsets are drawn from its training images. Its
            `config.memorization` sets the subset size and how members are scored.
          members: the total number of members, to balance the rounds.
          sharing: how many processes share the memory of these devices.

        Raises:
          UserError: a subset has no whole batch, or not even one member fits a device.
        """
        settings = experiment.config.memorization
        examples = len(experiment.train)
        self._subset_size = subset_size(experiment)
        if self._subset_size < experiment.config.train.batch_size:
            raise UserError(
                f"config.train.batch_size is {experiment.config.train.batch_size}; expected at most"
                f" the {self._subset_size} images of a member's subset"
            )
        if self._subset_size == examples:
            raise UserError(
                f"config.memorization.ratio is {settings.ratio}, all of the {examples} images;"
                " expected some to be left out"
            )
        self._programs = experiment.programs
        self._experiment = planned(experiment, examples=self._subset_size)
        cautions.warn_of_plan(self._experiment)
        devices = experiment.mesh.devices
        # The trainer's axis has size 1: a member's batch is not divided.
        self._mesh = Mesh(
            devices[:, None], (_MEMBER, AXIS), axis_types=(AxisType.Auto, AxisType.Auto)
        )
        fitting = self._programs.members_at_once
        if not fitting:
            free = self._free_bytes()
            with distributed.agreed():
                fitting = self.fitting(USABLE / sharing * free)
            # All processes run the same programs: as many members as the fullest one allows.
            fitting = -distributed.anywhere(-fitting)
        self.round_size = even_rounds(members, fitting=fitting, devices=len(devices))

    @property
    def epochs(self) -> int:
        """How many epochs a member trains; the last one may be partial."""
        return -(-self._experiment.total_steps // self._experiment.steps_per_epoch)

    def train(
        self,
        members: Int[np.ndarray, " members"],
        progress: Callable[[float], object] = lambda members: None,
    ) -> Scores:
        """Returns the scores of at most one round of members.

        Args:
          members: their indices.
          progress: called after every epoch with the work done since, in units of members.

        Raises:
          NonFiniteError: a member's loss is not finite.
        """
        # A round has a fixed shape: missing members are padded and dropped.
        filled = np.resize(np.asarray(members, np.int32), self.round_size)
        states = self._created(filled)
        for epoch in range(self.epochs):
            states, losses = self._epoch(states, filled, np.int32(epoch), self._train)
            is_bad = ~np.isfinite(jax.device_get(losses))[: len(members)]
            if is_bad.any():
                raise NonFiniteError(
                    f"member {members[is_bad][0]}: loss not finite in epoch {epoch + 1}; lower"
                    " config.train.optimizer.learning_rate, or look at the data"
                )
            progress(len(members) / (self.epochs + 1))
        scores = jax.device_get(self._scored(states, filled, self._train, self._test))
        progress(len(members) / (self.epochs + 1))
        return Scores(members, *(values[: len(members)] for values in scores))

    @functools.cached_property
    def _train(self) -> DeviceSplit:
        estimates, train = self._experiment.estimates, self._experiment.train
        known = None if estimates is None else of_examples(estimates, train)
        return to_devices(train, self._mesh, known)

    @functools.cached_property
    def _test(self) -> DeviceSplit:
        return to_devices(self._experiment.dataset.test, self._mesh)

    def _free_bytes(self) -> int:
        """Returns the free memory of the fullest device, with the data in place."""
        jax.block_until_ready((self._train, self._test))
        return min(free_bytes(device) for device in self._mesh.local_devices)

    def _key(self, member: Int[Array, ""]) -> Key[Array, ""]:
        return keys.derive(self._experiment.config.seed, Purpose.MEMBER, member)

    def _rows(self, member: Int[Array, ""]) -> Int32[Array, " size"]:
        return subset(
            self._experiment.config.seed,
            member,
            examples=len(self._experiment.train),
            size=self._subset_size,
        )

    @functools.cached_property
    def _created(self) -> jax.stages.Wrapped:
        experiment = self._experiment

        def create(member: Int[Array, ""]) -> TrainState:
            return state.create(
                experiment.model,
                experiment.optimizer,
                experiment.dataset.image_shape,
                seed=self._key(member),
                ema=experiment.config.train.ema > 0,
                memory=check_memory(experiment.method, len(experiment.train)),
            )

        return self._over_members(create, members=1)

    @functools.cached_property
    def _epoch(self) -> jax.stages.Wrapped:
        experiment = self._experiment
        steps, total = experiment.steps_per_epoch, experiment.total_steps
        step = TrainStep(
            experiment.model,
            experiment.method,
            experiment.optimizer,
            experiment.config,
            self._programs,
        )

        def train(
            start: TrainState, member: Int[Array, ""], epoch: Int[Array, ""], data: DeviceSplit
        ) -> tuple[TrainState, Float[Array, ""]]:
            key = self._key(member)
            batches = epoch_order(
                key,
                epoch,
                examples=self._subset_size,
                batch_size=experiment.config.train.batch_size,
            )
            order = self._rows(member)[batches]

            def one(now: TrainState, _: None) -> tuple[TrainState, Float[Array, ""]]:
                after, metrics = step(now, data, order, key)
                is_over = now.step >= total
                return jax.tree.map(lambda old, new: jnp.where(is_over, old, new), now, after), (
                    jnp.where(is_over, 0.0, metrics["loss"])
                )

            def whole(now: TrainState, _: None) -> tuple[TrainState, Float[Array, ""]]:
                after, metrics = step(now, data, order, key)
                return after, metrics["loss"]

            # Only a training that ends within an epoch needs to check whether it is over.
            end, losses = jax.lax.scan(one if total % steps else whole, start, length=steps)
            return end, jnp.sum(losses)

        return self._over_members(train, members=2, donate=(0,), gather=(False, True))

    @functools.cached_property
    def _scored(self) -> jax.stages.Wrapped:
        examples = len(self._experiment.train)
        inputs = self._experiment.config.memorization.inputs
        kinds = ("clean", "adversarial") if inputs == "both" else (inputs,)

        def score(
            trained: TrainState, member: Int[Array, ""], train: DeviceSplit, test: DeviceSplit
        ) -> tuple[Array, ...]:
            mask = jnp.zeros(examples, bool).at[self._rows(member)].set(True)
            key = self._key(member)
            return mask, *(
                self._classify(trained.evaluated, data, key, kind)
                for kind in kinds
                for data in (train, test)
            )

        return self._over_members(score, members=2, gather=True)

    def _classify(
        self, variables: Variables, data: DeviceSplit, key: Key[Array, ""], inputs: str
    ) -> Shaped[Array, " examples"]:
        """Returns a member's scores on every image of a set, `clean` or `adversarial`."""
        config = self._experiment.config
        examples = len(data.labels)
        most = config.evaluation.batch_size
        if self._programs.execution == "vmap":
            # A round fills the memory by its training: the members of a device share the batch.
            most = max(1, most * self._mesh.shape[_MEMBER] // self.round_size)
        size = self._programs.scored_at_once(most, pixels=math.prod(data.images.shape[1:3]))
        statistic = recorded(config.memorization)
        logits_of = models.logits_fn(self._experiment.evaluated(), variables)
        # The last batch is padded with the last image.
        rows = jnp.minimum(jnp.arange(-(-examples // size) * size), examples - 1)
        attack_key = keys.derive(key, Purpose.EVALUATION)
        attack = evaluation_attack(config, self._programs, "cross_entropy")

        def batch(rows: Int32[Array, " batch"]) -> Shaped[Array, " batch"]:
            images, labels = to_unit(data.images[rows]), data.labels[rows]
            with jax.default_matmul_precision("highest"):
                if inputs == "adversarial":
                    image_keys = keys.per_image(attack_key, data.ids[rows])
                    images = pgd_trajectory(logits_of, images, labels, image_keys, attack).images
                logits = logits_of(images)
            if statistic == "correct":
                return correct(logits, labels)
            if statistic == "margin":
                return margin(logits, labels)
            probabilities = jax.nn.softmax(logits)
            return jnp.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]

        return jax.lax.map(batch, rows.reshape(-1, size)).reshape(-1)[:examples]

    def _over_members(
        self,
        function: Callable[..., Any],
        *,
        members: int,
        donate: tuple[int, ...] = (),
        gather: bool | tuple[bool, ...] = False,
    ) -> jax.stages.Wrapped:
        """Maps a function of one member over a round.

        Args:
          function: takes its member's arguments first, then the shared ones.
          members: how many of its arguments belong to a member.
          donate: arguments whose buffers the result may reuse.
          gather: whether every process receives the results of all members; one flag per result if
            there are several.
        """

        def of_share(*arguments: Any) -> Any:
            own, shared = arguments[:members], arguments[members:]
            if self._programs.execution == "map":
                results = jax.lax.map(lambda one: function(*one, *shared), own)
            else:
                results = jax.vmap(lambda *one: function(*one, *shared))(*own)
            return jax.tree.map(collected, gather, results)

        def collected(to_all: bool, result: Any) -> Any:
            return jax.lax.all_gather(result, _MEMBER, tiled=True) if to_all else result

        def mapped(*arguments: Any) -> Any:
            specs = (P(_MEMBER),) * members + (P(),) * (len(arguments) - members)
            return jax.shard_map(
                of_share,
                mesh=self._mesh,
                in_specs=specs,
                out_specs=jax.tree.map(lambda to_all: P() if to_all else P(_MEMBER), gather),
                check_vma=False,
            )(*arguments)

        return jax.jit(mapped, donate_argnums=donate)

    def fitting(self, free: float) -> int:
        """Returns how many members fit at a time in `free` bytes of a device.

        The compiler reports the memory of a round of one member. Under `vmap`, each further member
        adds the difference between rounds of two and one; under `map`, the size of its state.

        Raises:
          UserError: not even one member fits.
        """
        one = self._bytes(1)
        if self._programs.execution == "map":
            each = (
                sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self._states(1)))
                // self._mesh.shape[_MEMBER]
            )
        else:
            each = self._bytes(2) - one
        if one > free:
            raise UserError(
                f"memorization: one member takes {one / 2**30:.2f} GiB of a device, and"
                f" {free / 2**30:.2f} GiB may be used; lower config.train.batch_size"
            )
        found = 1 + int((free - one) // max(each, 1))
        return min(found, _MOST_MAPPED) if self._programs.execution == "map" else found

    def _states(self, members: int) -> TrainState:
        """Returns the state shapes for this many members per device."""
        ids = jax.ShapeDtypeStruct((members * self._mesh.shape[_MEMBER],), jnp.int32)
        return jax.eval_shape(self._created, ids)

    def _bytes(self, members: int) -> int:
        """Returns the device memory of an epoch with `members` per device, without the data."""
        states = self._states(members)
        ids = jax.ShapeDtypeStruct(states.step.shape, jnp.int32)
        epoch = jax.ShapeDtypeStruct((), jnp.int32)
        data = shapes(self._experiment.train)
        memory: Any = self._epoch.lower(states, ids, epoch, data).compile().memory_analysis()
        # The result reuses the donated state.
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def even_rounds(members: int, *, fitting: int, devices: int) -> int:
    """Returns the round size that leaves the fewest empty places in the last round.

    Args:
      members: the number of members.
      fitting: how many members fit on a device.
      devices: the number of devices.
    """
    most = min(fitting, -(-members // devices))
    sizes = [devices * share for share in range(max(1, most // 2), most + 1)]
    return min(reversed(sizes), key=lambda size: -members % size)
