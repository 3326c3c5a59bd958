"""Builds the components of a training run from a config, and validates the inputs."""

import dataclasses
import functools
import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Int32, Int64, Key
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import keys, memorization, methods, models, outside, parallel
from bat_jax.attacks.inner_losses import LossName
from bat_jax.data import Dataset, Split, corruptions, load, select
from bat_jax.data import extra as extra_images
from bat_jax.data.device import (
    DeviceSplit,
    StreamedSplit,
    check_fits,
    epoch_order,
    is_too_large,
    shapes,
    to_devices,
    without_images,
)
from bat_jax.data.feeding import Feed, Resident, Streamed
from bat_jax.data.places import expanded
from bat_jax.errors import UserError
from bat_jax.evaluation import groups as class_groups
from bat_jax.evaluation.classify import Evaluator
from bat_jax.evaluation.records import CLEAN, Measure
from bat_jax.evaluation.tracking import Tracker
from bat_jax.fields import LARGEST_INTEGER
from bat_jax.kernels import programs as kernel_programs
from bat_jax.memorization import Typicality, history
from bat_jax.memorization import estimates as estimate_files
from bat_jax.models.adapters import with_fields
from bat_jax.parallel import AXIS
from bat_jax.runtime import distributed
from bat_jax.training import averaging, cautions, optimizers, recipe, state
from bat_jax.training.accepted import check_memory, check_model
from bat_jax.training.images import data_seed, hold_out, normalization, some_of
from bat_jax.training.images import excluded as excluded_ids
from bat_jax.training.images import tested as with_tested
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
      excluded: ids of the training images left out, if the config names any.
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

    def data_shapes(self) -> Any:
        """Returns the shapes of the data of a step, for compilation."""
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
            known = estimate_files.of_examples(self.estimates, self.train)
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

        Whether a test image is atypical depends on the training images, including the excluded
        ones: a run without them is compared on the same test images.
        """
        if self.estimates is None:
            return None
        ids = self.train.ids if self.excluded is None else np.union1d(self.train.ids, self.excluded)
        return estimate_files.split(self.estimates, self.config.memorization.threshold, among=ids)


def build(
    config: ConfigDict,
    *,
    model: models.Classifier | None = None,
    dataset: Dataset | None = None,
    mesh: Mesh | None = None,
) -> Experiment:
    """Returns the experiment of a config.

    Args:
      config: the whole config; where it names a method from outside, it gets the method's section,
        and `data.classes` becomes a tuple of labels.
      model: in place of the one that the config names: any that `bat_jax.models.adapted` takes.
      dataset: in place of the one that the config names.
      mesh: in place of the devices of this machine.

    Raises:
      UserError: a field, the data or the estimates are wrong.
    """
    methods.complete(config)
    configs.check(config)
    mesh = mesh or parallel.make_mesh(config.parallel.devices)
    if config.job != "memorization":  # A member scores images on one device.
        parallel.check_divisible("config.evaluation.batch_size", config.evaluation.batch_size, mesh)
    if model is None:
        # Reject an unknown name before reading any data.
        models.check_name(config.model.name)

    dataset = dataset or load(
        config.data.name, path=config.data.path, side=config.data.side, cache=config.data.cache
    )
    if config.data.classes is not None:
        dataset = select(dataset, config.data.classes)
        # Names and a number of classes become labels, which readers of the run need no data for.
        config.data.classes = dataset.classes
    dataset = with_tested(dataset, config)
    if config.job == "memorization":
        test = some_of(dataset.test, config.memorization.test_images, config)
        dataset = dataclasses.replace(dataset, test=test)
    _check_images(config, dataset)
    class_groups.check(dataset, tuple(config.evaluation.by))
    corrupted = _corrupted(config, dataset)
    recipe.extra_each(config)
    extra = None if config.data.extra is None else extra_images.load(config.data.extra, dataset)
    validation, train = hold_out(dataset, config)
    excluded = excluded_ids(config, dataset)
    if excluded is not None:
        train = train.take(np.flatnonzero(~np.isin(train.ids, excluded)))
    estimates = _estimates(config, dataset)
    steps_per_epoch, total_steps, learning_rate = _plan(config, len(train))
    epochs = total_steps / steps_per_epoch
    first_decay = state.first_decay(config.train, epochs)
    method = methods.create(
        config.objective,
        methods.Setup(
            num_steps=config.attack.num_steps,
            num_classes=dataset.num_classes,
            threshold=config.memorization.threshold,
            first_decay=first_decay,
            epsilon=config.attack.epsilon,
        ),
    )
    _check_estimates(config, method, estimates)
    recipe.check(config, method)
    cautions.warn(config, method, epochs=epochs, total_steps=total_steps)
    is_small = model is None and config.model.name in models.SMALL
    is_outside = model is not None or outside.is_outside(config.model.name)
    model = model or _model(config, dataset, train)
    if is_outside:
        model = models.adapted(model)
    if config.model.remat:
        model = models.rematerialized(model)
    if config.model.resize is not None:
        model = models.Resized(model, config.model.resize)
    if is_outside:
        check_model(model, dataset, mesh, method)
    _check_size(config, model, dataset)
    if config.train.optimizer.layers:
        optimizers.check_layers(config.train.optimizer, _shapes(model, dataset)["params"])
    return Experiment(
        config=config,
        dataset=dataset,
        train=train,
        extra=extra,
        validation=validation,
        excluded=excluded,
        estimates=estimates,
        corrupted=corrupted,
        mesh=mesh,
        model=model,
        programs=kernel_programs.resolve(
            config.programs.to_dict(),
            is_small=is_small,
            is_ensemble=config.job == "memorization",
            is_attacked=method.attack is not None,
        ),
        method=method,
        optimizer=optimizers.create(config.train.optimizer, learning_rate),
        learning_rate=learning_rate,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        score=score_name(config),
    )


def _corrupted(config: ConfigDict, dataset: Dataset) -> corruptions.Corrupted | None:
    settings = config.evaluation.corruptions
    if settings.path is None:
        return None
    return corruptions.read(expanded(settings.path), dataset, settings.names)


def planned(experiment: Experiment, *, examples: int) -> Experiment:
    """Returns the experiment with steps and learning rate for epochs of `examples` examples."""
    config = experiment.config
    steps_per_epoch, total_steps, learning_rate = _plan(config, examples)
    return dataclasses.replace(
        experiment,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        learning_rate=learning_rate,
        optimizer=optimizers.create(config.train.optimizer, learning_rate),
    )


def check_batch(experiment: Experiment) -> None:
    """Raises a UserError unless the devices can share a training batch evenly."""
    train = experiment.config.train
    parallel.check_divisible(
        "config.train.batch_size", train.batch_size, experiment.mesh, parts=train.accumulation
    )


def check_memory_fits(experiment: Experiment) -> None:
    """Raises a UserError if a device cannot hold what the method remembers of the examples."""
    method, examples = experiment.method, len(experiment.train)
    shapes = jax.eval_shape(lambda: check_memory(method, examples))
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    what = (
        f"config.objective.name is {method.name}, which remembers {needed / 2**30:.3f} GiB of"
        f" {examples} images on every device"
    )
    check_fits(needed, experiment.mesh, what)


def score_name(config: ConfigDict) -> str:
    """Returns the name of the validation accuracy that chooses the best checkpoint."""
    if config.evaluation.select_by == "clean":
        return CLEAN.key
    return Measure.pgd(config.evaluation.num_steps).key


def _plan(config: ConfigDict, examples: int) -> tuple[int, int, optax.Schedule]:
    """Returns the steps per epoch, the total steps and the learning rate by step."""
    steps_per_epoch = examples // config.train.batch_size
    if not steps_per_epoch:
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}; expected at most the"
            f" {examples} training images"
        )
    total_steps = config.train.steps or config.train.epochs * steps_per_epoch
    if total_steps > LARGEST_INTEGER:
        raise UserError(
            f"config.train.epochs is {config.train.epochs}, of {steps_per_epoch} steps each;"
            f" expected at most {LARGEST_INTEGER} steps in all"
        )
    learning_rate = state.schedule(
        config.train, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )
    return steps_per_epoch, total_steps, learning_rate


def _estimates(config: ConfigDict, dataset: Dataset) -> memorization.Estimates | None:
    """Returns the estimates that the config names, checked against the data set."""
    if config.memorization.estimates is None:
        return None
    estimates = memorization.load(config.memorization.estimates)
    return estimate_files.matched(estimates, dataset)


def _check_estimates(
    config: ConfigDict, method: methods.Method, estimates: memorization.Estimates | None
) -> None:
    """Raises a UserError if a feature needs estimates and there are none."""
    if estimates is not None:
        return
    if config.evaluation.track.images:
        raise UserError(
            f"config.evaluation.track.images is {config.evaluation.track.images} and"
            " config.memorization.estimates is not set; expected an estimates file, which separates"
            " typical images from atypical ones"
        )
    if method.estimates_for is not None:
        raise UserError(
            f"config.memorization.estimates is not set; expected an estimates file for"
            f" {method.estimates_for} of config.objective.{method.name}"
        )


def _model(config: ConfigDict, dataset: Dataset, train: Split) -> models.Classifier:
    """Returns the model that the config names, with normalisation from the config or images."""
    mean, std = normalization(config, train)
    height, width, channels = dataset.image_shape
    side = config.model.resize
    return models.create(
        config.model.name,
        dataset.num_classes,
        image_shape=(side or height, side or width, channels),
        width=config.model.width,
        depth=config.model.depth,
        widening=config.model.widening,
        activation=config.model.activation,
        stem=config.model.stem,
        shortcut=config.model.shortcut,
        final_norm=config.model.final_norm,
        mean=mean,
        std=std,
        dtype=jnp.dtype(config.model.dtype),
        axis_name=AXIS if config.model.sync_batch_norm else None,
    )


def _check_images(config: ConfigDict, dataset: Dataset) -> None:
    """Checks the fields that depend on the image size."""
    side = min(dataset.image_shape[:2])
    if config.data.crop_padding >= side:
        raise UserError(
            f"config.data.crop_padding is {config.data.crop_padding}; expected less than {side},"
            f" the side of the images of {dataset.name}: a crop could miss the image"
        )
    diameter = math.sqrt(math.prod(dataset.image_shape))
    if config.attack.norm == "l2" and config.attack.epsilon > diameter:
        raise UserError(
            f"config.attack.epsilon is {config.attack.epsilon}; expected at most {diameter:.4g} for"
            f" l2, the largest distance of two images of {dataset.name} in [0, 1]"
        )


def _shapes(model: models.Classifier, dataset: Dataset) -> state.Variables:
    """Returns the shapes of a model's variables."""
    image = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
    # Models mix types where they compute in bfloat16.
    with jax.numpy_dtype_promotion("standard"):
        return dict(jax.eval_shape(model.init, jax.random.key(0), image))


def _check_size(config: ConfigDict, model: models.Classifier, dataset: Dataset) -> None:
    """Rejects a width whose parameter count exceeds an int32."""
    sizes = {name: config.model[name] for name in ("width", "widening") if config.model[name]}
    if not sizes:
        return
    parameters = state.number_of_parameters(_shapes(model, dataset))
    if parameters > LARGEST_INTEGER:
        name = max(sizes, key=lambda name: sizes[name])
        raise UserError(
            f"config.model.{name} is {sizes[name]}, which gives {config.model.name}"
            f" {parameters:.2g} parameters; expected at most {LARGEST_INTEGER:.2g}: lower it"
        )
