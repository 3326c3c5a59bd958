"""Builds the experiment of a config, and checks what a config alone cannot show to be wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import memorization, methods, models, outside, parallel
from bat_jax.data import Dataset, Split, corruptions
from bat_jax.data import extra as extra_images
from bat_jax.data.device import check_fits
from bat_jax.data.places import expanded
from bat_jax.errors import UserError
from bat_jax.evaluation import groups as class_groups
from bat_jax.evaluation.records import CLEAN, Measure
from bat_jax.fields import LARGEST_INTEGER
from bat_jax.kernels import programs as kernel_programs
from bat_jax.memorization.matching import matched
from bat_jax.parallel import AXIS
from bat_jax.training import cautions, images, optimizers, recipe, schedules, state
from bat_jax.training.accepted import check_memory, check_model
from bat_jax.training.experiment import Experiment


def build(
    config: ConfigDict,
    *,
    model: models.Classifier | None = None,
    dataset: Dataset | None = None,
    estimates: memorization.Estimates | None = None,
    mesh: Mesh | None = None,
    trains: bool = True,
) -> Experiment:
    """Returns the experiment of a config.

    Args:
      config: the whole config; where it names a method from outside, it gets the method's section,
        and `data.classes` becomes a tuple of labels.
      model: in place of the one that the config names: any that `bat_jax.models.adapted` takes.
      dataset: in place of the one that the config names.
      estimates: in place of those that the config names; they are not checked again.
      mesh: in place of the devices of this machine.
      trains: whether it is to train, rather than to be evaluated.

    Raises:
      UserError: a field, the data or the estimates are wrong.
    """
    methods.complete(config)
    configs.check(config, trains=trains)
    mesh = mesh or parallel.make_mesh(config.parallel.devices)
    if config.job != "memorization":  # A member scores images on one device.
        parallel.check_divisible("config.evaluation.batch_size", config.evaluation.batch_size, mesh)
    if model is None:
        # Reject an unknown name before reading any data.
        models.check_name(config.model.name)

    dataset = images.selected(config, dataset)
    if dataset.num_classes < 2:
        raise UserError(f"{dataset.name}: has one class; expected two or more")
    # Estimates know the whole test set, of which an ensemble may score a part.
    if estimates is None:
        estimates = _estimates(config, dataset)
    dataset = images.scored(config, dataset)
    class_groups.check(dataset, tuple(config.evaluation.by))
    corrupted = _corrupted(config, dataset)
    recipe.extra_each(config)
    extra = None if config.data.extra is None else extra_images.load(config.data.extra, dataset)
    validation, train = images.hold_out(config, dataset)
    excluded = images.excluded(config, dataset)
    left_out = np.zeros(0, np.int64)
    if excluded is not None:  # Else the images would be copied.
        is_left_out = np.isin(train.ids, excluded)
        left_out, train = train.ids[is_left_out], train.take(np.flatnonzero(~is_left_out))

    steps_per_epoch, total_steps, learning_rate = _plan(config, len(train))
    epochs = total_steps / steps_per_epoch
    method = _method(config, dataset, epochs)
    _check_estimates(config, method, estimates)
    recipe.check(config, method)
    if trains and (model is not None or outside.is_outside(config.model.name)):
        cautions.warn_of_unused_model_fields(config)
    if trains and config.job != "memorization":  # The plan of its members is another.
        cautions.warn(config, method, epochs=epochs, total_steps=total_steps)
    experiment = Experiment(
        config=config,
        dataset=dataset,
        train=train,
        extra=extra,
        validation=validation,
        excluded=excluded,
        left_out=left_out,
        estimates=estimates,
        corrupted=corrupted,
        mesh=mesh,
        model=_model(config, dataset, train, method, mesh, given=model),
        programs=kernel_programs.resolve(
            config.programs.to_dict(),
            is_small=model is None and config.model.name in models.SMALL,
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
    if trains and outside.is_outside(config.objective.name):
        _check_step(experiment)
    return experiment


def planned(experiment: Experiment, *, examples: int) -> Experiment:
    """Returns the experiment planned for epochs of `examples` examples."""
    config = experiment.config
    steps_per_epoch, total_steps, learning_rate = _plan(config, examples)
    return dataclasses.replace(
        experiment,
        method=_method(config, experiment.dataset, total_steps / steps_per_epoch),
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
    learning_rate = schedules.learning_rate(
        config.train, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )
    return steps_per_epoch, total_steps, learning_rate


def _corrupted(config: ConfigDict, dataset: Dataset) -> corruptions.Corrupted | None:
    settings = config.evaluation.corruptions
    if settings.path is None:
        return None
    return corruptions.read(expanded(settings.path), dataset, settings.names)


def _estimates(config: ConfigDict, dataset: Dataset) -> memorization.Estimates | None:
    """Returns the estimates that the config names, checked against the data set."""
    if config.memorization.estimates is None:
        return None
    estimates = memorization.load(config.memorization.estimates)
    return matched(estimates, dataset)


def _method(config: ConfigDict, dataset: Dataset, epochs: float) -> methods.Method:
    """Returns the method that the config names, for a training of this many epochs."""
    return methods.create(
        config.objective,
        methods.Setup(
            num_steps=config.attack.num_steps,
            num_classes=dataset.num_classes,
            threshold=config.memorization.threshold,
            first_decay=schedules.first_decay(config.train, epochs),
            epsilon=config.attack.epsilon,
        ),
    )


def _check_step(experiment: Experiment) -> None:
    """Traces a training step, which calls every part of a method, on one device."""
    config = experiment.config.copy_and_resolve_references()
    config.data.placement = "device"
    mesh = parallel.mesh_of(jax.local_devices()[:1])
    alone = dataclasses.replace(experiment, config=config, mesh=mesh)
    check_batch(alone)
    try:
        jax.eval_shape(alone.train_step, *alone.step_shapes())
    except (UserError, MemoryError):
        raise
    # The method is the user's, so it may raise anything.
    except Exception as error:
        raise UserError(
            f"config.objective.name is {config.objective.name!r}; a training step fails"
            f" ({outside.raised(error)}); expected parts as bat_jax.methods.Method describes them"
        ) from error


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


def _model(
    config: ConfigDict,
    dataset: Dataset,
    train: Split,
    method: methods.Method,
    mesh: Mesh,
    *,
    given: models.Classifier | None,
) -> models.Classifier:
    """Returns the given model or the one that the config names, checked, as the trainer calls it.

    Args:
      config: the whole config.
      dataset: the data set that the model is to classify.
      train: the training images, whose statistics may normalise the images.
      method: the training method, which may need features.
      mesh: the devices.
      given: in place of the model that the config names.
    """
    is_outside = given is not None or outside.is_outside(config.model.name)
    model = given or _named(config, dataset, train)
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
    return model


def _named(config: ConfigDict, dataset: Dataset, train: Split) -> models.Classifier:
    """Returns the model that the config names, with normalisation from the config or images."""
    mean, std = images.normalization(config, train)
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
