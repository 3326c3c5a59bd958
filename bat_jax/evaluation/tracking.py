"""Accuracy on typical and atypical images, followed while a model trains.

It serves the curves of a report and chooses nothing: test images may be followed too.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bat_jax import keys
from bat_jax.data.dataset import Split
from bat_jax.data.device import to_devices
from bat_jax.errors import UserError
from bat_jax.evaluation.classify import Evaluator
from bat_jax.kernels.programs import Programs
from bat_jax.memorization import Typicality
from bat_jax.models import Classifier

SETS = ("train_typical", "train_atypical", "test_typical", "test_atypical")


class Tracker:
    """Measures a model on a fixed sample of each of `SETS`."""

    def __init__(
        self,
        model: Classifier,
        config: ConfigDict,
        mesh: Mesh,
        programs: Programs,
        *,
        sets: tuple[Split, Split],
        groups: Typicality,
        seed: int,
    ):
        """Draws the images.

        Args:
          model: a model that computes in float32.
          config: the whole config; `attack`, `evaluation` and `seed` are read.
          mesh: the devices that share a batch.
          programs: the forms that suit the back end.
          sets: the training and the test images.
          groups: which of them are typical.
          seed: draws the images.

        Raises:
          UserError: `groups` contain none of the images.
        """
        train, test = sets
        key = keys.derive(seed, keys.Purpose.SUBSET)
        parts, start = [], 0
        self._rows: dict[str, slice] = {}
        self._sizes: dict[str, int] = {}
        for name, images, ids in zip(SETS, (train, train, test, test), groups, strict=True):
            # Without influence estimates, the groups of the test images are unknown.
            rows = images.rows(np.zeros(0, np.int64) if ids is None else ids)
            rows = np.asarray(jax.random.permutation(key, rows[rows >= 0]), np.int64)
            self._sizes[name] = len(rows)
            rows = rows[: config.evaluation.track.images]
            if len(rows):
                parts.append(images.take(rows))
                self._rows[name] = slice(start, start + len(rows))
                start += len(rows)
        if not parts:
            raise UserError(
                "config.memorization.estimates covers no image here, and"
                " config.evaluation.track asks for accuracy by typicality; expected estimates of"
                " these images"
            )
        # A single set, so that the evaluation compiles once.
        whole = Split(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.ids for part in parts]),
        )
        self._data = to_devices(whole, mesh)
        self._evaluator = Evaluator(
            model,
            config,
            mesh,
            programs,
            losses=("cross_entropy",),
            num_steps=config.evaluation.track.num_steps,
        )

    def __call__(self, variables: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Returns accuracies by attack for each non-empty set, on `n` images `of` all."""
        verdicts = self._evaluator(variables, self._data)
        return {
            name: {
                **{attack: float(np.mean(correct[rows])) for attack, correct in verdicts.items()},
                "n": rows.stop - rows.start,
                "of": self._sizes[name],
            }
            for name, rows in self._rows.items()
        }
