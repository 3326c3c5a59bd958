"""A training run, ready to start: its parts, and what a step and an evaluation need of them."""

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Int32, Int64, Key
from ml_collections import ConfigDict

from bat_jax import keys, memorization, methods, models, parallel
from bat_jax.attacks import PgdSettings
from bat_jax.attacks.inner_losses import LossName
from bat_jax.data import Dataset, Split, corruptions
from bat_jax.data import extra as extra_images
from bat_jax.data.device import (
    DeviceSplit,
    StreamedSplit,
    epoch_order,
    is_too_large,
    shapes,
    to_devices,
    without_images,
)
from bat_jax.data.feeding import Feed, Resident, Streamed
from bat_jax.evaluation.classify import Evaluator
from bat_jax.evaluation.tracking import Tracker
from bat_jax.kernels import programs as kernel_programs
from bat_jax.memorization import Typicality, history, split
from bat_jax.memorization.matching import of_examples
from bat_jax.models.adapters import with_fields
from bat_jax.runtime import distributed
from bat_jax.training import averaging, recipe, state
from bat_jax.training.accepted import check_memory
from bat_jax.training.images import data_seed, some_of
from bat_jax.training.scores import FGSM
from bat_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training run, ready to start.

    Attributes:
      config: the whole config.
      dataset: the full data set.
      train: the training images.
      extra: extra training images, if the config names any.
      validation: the held-out images, which choose the best checkpoint.
      excluded: the ids that the config leaves out of training, if it names any.
      left_out: those of them that would be training images otherwise.
      estimates: memorization estimates of the data set, if the config names any.
      corrupted: corrupted versions of the test images, if the config names any.
      mesh: the devices.
      model: with batch norm synchronised over the mesh's axis, if the config says so.
      programs: the forms of its convolutions and loops that suit the back end.
      method: the training method.
      optimizer: of the parameters.
      learning_rate: by step.
      steps_per_epoch: the number of whole batches in `train`.
      total_steps: of the training.
      score: the validation accuracy that chooses the best checkpoint, `clean` or `pgd<steps>`.
    """

    config: ConfigDict
    dataset: Dataset
    train: Split
    extra: Split | None
    validation: Split
    excluded: Int64[np.ndarray, " ids"] | None
    left_out: Int64[np.ndarray, " ids"]
    estimates: memorization.Estimates | None
    corrupted: corruptions.Corrupted | None
    mesh: Mesh
    model: models.Classifier
    programs: kernel_programs.Programs
    method: methods.Method
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    steps_per_epoch: int
    total_steps: int
    score: str

    def digests(self) -> dict[str, str]:
        """Returns content hashes of the data set, the excluded ids and the estimates."""
        digests = {"train": self.dataset.train.digest(), "test": self.dataset.test.digest()}
        if self.extra is not None:
            digests["extra"] = self.extra.digest()
        if self.excluded is not None:
            digests["exclude"] = hashlib.sha256(self.excluded.tobytes()).hexdigest()[:16]
        if self.estimates is not None:
            digests["estimates"] = self.estimates.digest()
        return digests

    def root(self) -> Key[Array, ""]:
        """Returns the root key of all random draws of the training, on every device."""
        return parallel.root(self.config.seed, self.mesh)

    def initial_state(self) -> state.TrainState:
        """Returns the state of step 0, on every device, with an empty example history."""
        return self._created(self.root())

    @functools.cached_property
    def _created(self) -> jax.stages.Wrapped:
        def create(root: Key[Array, ""]) -> state.TrainState:
            return state.create(
                self.model,
                self.optimizer,
                self.dataset.image_shape,
                seed=root,
                ema=averaging.is_on(self.config.train),
                memory={
                    "history": history.create(len(self.train)),
                    **check_memory(self.method, len(self.train)),
                },
            )

        # Computed on every device of every process rather than transferred.
        replicated = NamedSharding(self.mesh, parallel.REPLICATED)
        return jax.jit(create, out_shardings=replicated)

    @functools.cached_property
    def _step(self) -> TrainStep:
        return TrainStep(self.model, self.method, self.optimizer, self.config, self.programs)

    @functools.cached_property
    def train_step(self) -> jax.stages.Wrapped:
        """The jitted `TrainStep` over all devices, compiled once."""
        return parallel.over_devices(
            self._step,
            self.mesh,
            in_specs=(
                parallel.REPLICATED,
                self._data_spec,
                parallel.REPLICATED,
                parallel.REPLICATED,
            ),
            out_specs=(parallel.REPLICATED, parallel.REPLICATED),
            donate=(0,),
        )

    @functools.cached_property
    def refreshed(self) -> jax.stages.Wrapped:
        """The jitted `TrainStep.refreshed` over all devices."""
        return parallel.over_devices(
            self._step.refreshed,
            self.mesh,
            in_specs=(parallel.REPLICATED,) * 4,
            out_specs=parallel.REPLICATED,
            donate=(0,),
        )

    def test_images(self) -> Split:
        """Returns the test set, or a random subset of the configured size."""
        return some_of(self.dataset.test, self.config.evaluation.subset, self.config)

    @functools.cached_property
    def is_streamed(self) -> bool:
        """Whether training images stay on the host, as the config or their size has it."""
        placement = self.config.data.placement
        if placement is None and self.config.train.swa_start_epoch is None:
            return bool(distributed.anywhere(is_too_large(self.presented, self.mesh)))
        return bool(placement == "host")

    @property
    def _data_spec(self) -> Any:
        if not self.is_streamed:
            return parallel.REPLICATED
        spec: Any = StreamedSplit
        return spec(parallel.SHARED, *(parallel.REPLICATED,) * 3)

    def feed(self) -> Feed:
        """Returns the training images for the steps."""
        if not self.is_streamed:
            return Resident(self.train_data())
        return self._from_host(self.presented, self._known())

    def placed(self, split: Split) -> DeviceSplit | Streamed:
        """Returns images for an evaluation, on the devices or in batches from the host.

        They stay on the host where the training images do, or if they do not fit the devices and
        the config leaves the choice.
        """
        is_streamed = self.is_streamed
        if self.config.data.placement is None and not is_streamed:
            is_streamed = bool(distributed.anywhere(is_too_large(split, self.mesh)))
        return self._from_host(split) if is_streamed else to_devices(split, self.mesh)

    def _from_host(
        self, split: Split, memorization: Float[np.ndarray, " examples"] | None = None
    ) -> Streamed:
        rest = to_devices(without_images(split), self.mesh, memorization)
        return Streamed(split.images, rest, self.mesh)

    def step_shapes(self) -> tuple[Any, Any, Any, Any]:
        """Returns the shapes of the arguments of `train_step`, for compilation."""
        steps = (self.steps_per_epoch, self.config.train.batch_size)
        order = jax.ShapeDtypeStruct(steps, jnp.int32)
        return (
            jax.eval_shape(self.initial_state),
            self._data_shapes(),
            order,
            jax.eval_shape(self.root),
        )

    def _data_shapes(self) -> Any:
        if not self.is_streamed:
            return shapes(self.presented)
        images = self.presented.images
        batch = (self.config.train.batch_size, *images.shape[1:])
        _, *rest = shapes(without_images(self.presented))
        shape: Any = jax.ShapeDtypeStruct(batch, jnp.uint8)
        return StreamedSplit(shape, *rest)

    def train_data(self) -> DeviceSplit:
        """Returns the training images on every device, with their memorization where known."""
        return to_devices(self.presented, self.mesh, self._known())

    def _known(self) -> Float[np.ndarray, " examples"] | None:
        """Returns the memorization of the training images, NaN where unknown."""
        known = None
        if self.estimates is not None:
            known = of_examples(self.estimates, self.train)
            missing = len(self.presented) - len(known)
            known = np.concatenate([known, np.full(missing, np.nan, known.dtype)])
        return known

    @functools.cached_property
    def presented(self) -> Split:
        """The training images, with the extra ones after them."""
        return self.train if self.extra is None else extra_images.joined(self.train, self.extra)

    def order(self, seed: keys.Seed, epoch: Int[Array, ""] | int) -> Int32[Array, "steps batch"]:
        """Returns the rows of `presented` in every batch of an epoch."""
        return epoch_order(
            seed,
            epoch,
            examples=len(self.train),
            batch_size=self.config.train.batch_size,
            extra=len(self.presented) - len(self.train),
            extra_each=recipe.extra_each(self.config),
        )

    def evaluator(self, losses: tuple[LossName, ...]) -> Evaluator:
        """Returns the evaluation of a set, clean and under PGD with each loss, compiled once."""
        if losses not in self._evaluators:
            self._evaluators[losses] = Evaluator(
                self.evaluated(), self.config, self.mesh, self.programs, losses=losses
            )
        return self._evaluators[losses]

    @functools.cached_property
    def validator(self) -> Evaluator:
        """The evaluation of the validation images: clean, under PGD and, if watched, under FGSM."""
        if not self.config.train.collapse.watch:
            return self.evaluator(("cross_entropy",))
        attack = self.config.attack
        fgsm = PgdSettings(
            epsilon=attack.epsilon,
            step_size=attack.epsilon,
            num_steps=1,
            norm=attack.norm,
            random_start=False,
            unroll=self.programs.unroll,
        )
        return Evaluator(
            self.evaluated(),
            self.config,
            self.mesh,
            self.programs,
            losses=("cross_entropy",),
            others={FGSM: fgsm},
        )

    @functools.cached_property
    def _evaluators(self) -> dict[tuple[LossName, ...], Evaluator]:
        return {}

    def evaluated(self, use: kernel_programs.Use = "evaluation") -> models.Classifier:
        """Returns the model for evaluation: in float32, regardless of its training type."""
        return models.with_conv(models.in_float32(self.model), self.programs.convolution(use))

    def searched(self) -> models.Classifier | None:
        """Returns the model that AutoAttack searches, or None for the evaluated one itself."""
        dtype = self.config.evaluation.search_dtype
        if dtype == "float32":
            return None
        return with_fields(self.evaluated("autoattack"), dtype=jnp.dtype(dtype))

    def tracker(self) -> Tracker | None:
        """Returns the tracker of accuracy by typicality, if the config enables it."""
        if not self.config.evaluation.track.images:
            return None
        groups = self.typicality()
        assert groups is not None  # Checked by `build`.
        return Tracker(
            self.evaluated(),
            self.config,
            self.mesh,
            self.programs,
            sets=(self.train, self.dataset.test),
            groups=groups,
            seed=data_seed(self.config),
        )

    def typicality(self) -> Typicality | None:
        """Returns the typical and atypical images, or None without estimates.

        Whether a test image is atypical depends on the training images, including those left out:
        a run without them is compared on the same test images.
        """
        if self.estimates is None:
            return None
        ids = np.union1d(self.train.ids, self.left_out)
        return split(self.estimates, self.config.memorization.threshold, among=ids)
