"""Trains from a Python program, optionally with the caller's own model and data."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from bat_jax import keys, models, outside
from bat_jax.attacks import Result, autoattack
from bat_jax.attacks.classifier import LogitsFn
from bat_jax.data import Dataset, Split
from bat_jax.errors import UserError
from bat_jax.evaluation import Accuracy
from bat_jax.interop import save_variables
from bat_jax.jobs.train import prepared, run
from bat_jax.runtime.interruption import Interrupted
from bat_jax.runtime.quiet import quiet
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.callbacks import Callback, check
from bat_jax.training.experiment import Experiment
from bat_jax.training.saved import read_states

State = Literal["best", "last"]


class Fitted(NamedTuple):
    """A finished training.

    Attributes:
      model: the model for evaluation, in float32.
      best: variables of the checkpoint with the best validation accuracy.
      last: variables at the end of training.
      results: the content of results.json: accuracies of both, with n and 95 % intervals.
      experiment: the trained experiment, with its config and data.
    """

    model: models.Classifier
    best: dict[str, Any]
    last: dict[str, Any]
    results: dict[str, Any]
    experiment: Experiment

    def logits_fn(self, state: State = "best") -> LogitsFn:
        """Returns the function from [0, 1] images, NHWC, to logits that attacks take."""
        return models.logits_fn(self.model, self._variables(state))

    def evaluate(self, split: Split, *, state: State = "best") -> dict[str, Accuracy]:
        """Returns the accuracy on images, clean and under the config's PGD attacks.

        Args:
          split: the images, such as `dataset.test`.
          state: `best` or `last`.

        Raises:
          UserError: the images or labels are not those that the model can classify.
        """
        experiment = self.experiment
        self._check(split)
        evaluator = experiment.evaluator(tuple(experiment.config.evaluation.losses))
        verdicts = evaluator(self._variables(state), experiment.placed(split))
        return {name: Accuracy.of(is_correct) for name, is_correct in verdicts.items()}

    def attack(self, split: Split, *, state: State = "best", **options: Any) -> Result:
        """Returns AutoAttack's verdicts on images, in the config's norm and epsilon.

        Args:
          split: the images.
          state: `best` or `last`.
          **options: options of `bat_jax.attacks.autoattack` that replace the config's; a `version`
            replaces the config's attacks with its own.

        Raises:
          UserError: the images, labels or options are wrong.
        """
        self._check(split)
        config = self.experiment.config
        settings = {
            "epsilon": config.attack.epsilon,
            "norm": config.attack.norm,
            "batch_size": config.evaluation.batch_size,
            "tolerance": config.evaluation.tolerance,
            "devices": self.experiment.mesh.local_devices,
        }
        searched = self.experiment.searched()
        if searched is not None:
            settings["search_fn"] = models.logits_fn(searched, self._variables(state))
        if config.evaluation.attacks and "version" not in options:
            settings["attacks"] = tuple(config.evaluation.attacks)
        key = keys.derive(config.seed, keys.Purpose.EVALUATION)
        return autoattack(
            self.logits_fn(state),
            np.asarray(split.images) / np.float32(255),
            split.labels,
            keys.per_image(key, split.ids.astype(np.int32)),
            **{**settings, **options},
        )

    def export(self, path: str | os.PathLike[str], *, state: State = "best") -> None:
        """Writes the variables as a safetensors file, by `bat_jax.interop.save_variables`.

        Args:
          path: the file.
          state: `best` or `last`.
        """
        save_variables(path, self._variables(state))

    def _check(self, split: Split) -> None:
        """Raises a UserError unless the model can classify these images."""
        if not isinstance(split, Split):
            raise UserError(
                f"split is a value of type {type(split).__name__}; expected a Split, such as"
                " dataset.test"
            )
        dataset = self.experiment.dataset
        if split.images.shape[1:] != dataset.image_shape:
            raise UserError(
                f"split: images are {split.images.shape[1:]}; expected {dataset.image_shape}"
            )
        outside = np.flatnonzero((split.labels < 0) | (split.labels >= dataset.num_classes))
        if len(outside):
            raise UserError(
                f"split: image {outside[0]} has label {split.labels[outside[0]]}; expected 0 to"
                f" {dataset.num_classes - 1}"
            )

    def _variables(self, state: State) -> Mapping[str, Any]:
        if state not in ("best", "last"):
            raise UserError(f"state is {state!r}; expected 'best' or 'last'")
        return self.best if state == "best" else self.last


def fit(
    config: ConfigDict,
    *,
    model: nn.Module | nnx.Module | models.Classifier | None = None,
    dataset: Dataset | None = None,
    workdir: str | AnyPath | None = None,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Trains a config and evaluates the best and the last state on the test set.

    Args:
      config: from a config file's `get_config()`, or from `bat_jax.config.default()`.
      model: replaces the model that the config names: any Flax module, of Linen or NNX, from images
        in [0, 1] to float32 logits, or a result of `bat_jax.models.pretrained`. An NNX module is
        not changed: the trained variables are in the result.
      dataset: replaces the data set that the config names; `bat_jax.data.from_arrays` makes one.
      workdir: the folder of the run; an interrupted run resumes. By default only the returned
        values are kept.
      callbacks: objects whose methods are called at the start, with every record, and at the end,
        for example for experiment trackers.

    Raises:
      UserError: the config, the model, the data or the folder are wrong, or a callback fails.
      NonFiniteError: training stopped at a non-finite number.
      Interrupted: SIGTERM or SIGINT; with a workdir the state is saved.
    """
    for name, value, kind in (("config", config, ConfigDict), ("dataset", dataset, Dataset)):
        if not (isinstance(value, kind) or (value is None and name != "config")):
            raise UserError(
                f"fit: {name} is a value of type {type(value).__name__}; expected a {kind.__name__}"
            )
    if config.job != "train":
        raise UserError(f"config.job is {config.job!r}; expected 'train', the only job of fit")
    check(callbacks)
    classifier = None if model is None else models.adapted(model)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        # Record the model and the data in the run's config, which may name them already.
        if classifier is not None and not outside.is_outside(config.model.name):
            config.model.name = models.path_of(classifier)
        if dataset is not None and not outside.is_outside(config.data.name):
            config.data.name = dataset.name
    if workdir is None:
        with tempfile.TemporaryDirectory(prefix="bat_jax-") as temporary:
            try:
                return _fit_in(as_path(temporary), config, classifier, dataset, callbacks)
            except Interrupted as error:
                lost = "without a workdir, nothing is saved"
                error.args = (f"stopped by {error.signal.name}: {lost}",)
                raise
    return _fit_in(as_path(workdir), config, classifier, dataset, callbacks)


def _fit_in(
    folder: AnyPath,
    config: ConfigDict,
    model: models.Classifier | None,
    dataset: Dataset | None,
    callbacks: Sequence[Callback],
) -> Fitted:
    experiment = prepared(config, folder, model=model, dataset=dataset)
    results = run(experiment, folder, callbacks)
    with quiet():
        states = read_states(experiment, folder)
    best, last = (jax.device_get(states[name].state.evaluated) for name in ("best", "last"))
    return Fitted(experiment.evaluated(), best, last, results, experiment)
