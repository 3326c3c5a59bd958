"""How well attributions predict models trained on other subsets: the linear datamodeling score.

Source: Park et al., TRAK: Attributing Model Behavior at Scale, arXiv:2303.14186, section 2; Ilyas
et al., Datamodels: Predicting Predictions from Training Data, arXiv:2202.00622.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped
from scipy.stats import rankdata

from bat_jax import keys
from bat_jax.errors import UserError

_RESAMPLES = 1000
_LEAST_MODELS = 10


class Subsets(NamedTuple):
    """Models trained on subsets, and their outputs: the ensemble that attributions are scored on.

    Attributes:
      masks: S_m, whether a model had a training example in its subset.
      margins: the outputs of the models on the test examples: margins, or any other number.
    """

    masks: Bool[np.ndarray, "models train"]
    margins: Float[np.ndarray, "models test"]


class DatamodelingScore(NamedTuple):
    """The linear datamodeling score of attributions.

    Attributes:
      values: the score of every test example, NaN where predictions or margins are constant.
      mean: their mean.
      interval: 95 % bootstrap interval of the mean, over models and test examples together.
      ceiling: the correlation that the best linear attributions would reach, given the noise of
        training; NaN if margins are constant.
      models: number of models.
    """

    values: Float64[np.ndarray, " test"]
    mean: float
    interval: tuple[float, float]
    ceiling: float
    models: int


def lds(
    scores: Float[np.ndarray, "train test"], ensemble: Subsets, *, seed: keys.Seed = 0
) -> DatamodelingScore:
    """Returns the linear datamodeling score of attributions on models that they have not seen.

        LDS(j) = Spearman over m of (sum of scores[i, j] over i in S_m, margins[m, j])

    The noise ceiling is the square root of the share of the variance of margins that is linear in
    the masks. Models with similar subsets have similar margins by as much: with standardized masks
    x and margins y, the share is the slope of y_m y_n on x_m x_n / (number of training examples)
    over all pairs of models (Haseman & Elston, Behavior Genetics 2:3, 1972), averaged over j.

    Args:
      scores: the attribution of test example j to training example i, higher if i raises the
        margin: influence, or the output of any attribution method.
      ensemble: models trained on subsets of the training examples. They must not be those from
        which the scores were estimated, whose noise they share.
      seed: seed of the resamples.

    Raises:
      UserError: shapes do not match, numbers are not finite, or fewer than ten models.
    """
    _check(scores, ensemble)
    masks, margins = ensemble.masks.astype(np.float64), ensemble.margins.astype(np.float64)
    predicted, actual = _ranks(masks @ scores.astype(np.float64)), _ranks(margins)
    values = _correlations(predicted, actual, np.ones((1, len(masks))))[0]
    key = keys.derive(seed, keys.Purpose.BOOTSTRAP)
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    weights = draws.multinomial(len(masks), np.full(len(masks), 1 / len(masks)), _RESAMPLES)
    resampled = _correlations(predicted, actual, weights.astype(np.float64))
    columns = draws.integers(0, len(values), resampled.shape)
    means = _mean(np.take_along_axis(resampled, columns, axis=1))
    interval = [np.nan, np.nan]
    if np.isfinite(means).any():
        interval = np.nanpercentile(means, [2.5, 97.5]).tolist()
    return DatamodelingScore(
        values=values,
        mean=float(_mean(values)),
        interval=(interval[0], interval[1]),
        ceiling=_ceiling(masks, margins),
        models=len(masks),
    )


def _check(scores: Shaped[np.ndarray, "..."], ensemble: Subsets) -> None:
    masks, margins = ensemble
    models = len(masks)
    if scores.ndim != 2 or masks.ndim != 2 or margins.ndim != 2 or len(margins) != models:
        raise UserError(
            f"lds: scores have shape {scores.shape}, masks {masks.shape}, margins {margins.shape};"
            " expected (train, test), (models, train) and (models, test)"
        )
    if scores.shape != (masks.shape[1], margins.shape[1]):
        raise UserError(
            f"lds: scores have shape {scores.shape}; expected {(masks.shape[1], margins.shape[1])},"
            " a row for every training example of the masks and a column for every test example of"
            " the margins"
        )
    for name, array in (("scores", scores), ("margins", margins)):
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise UserError(f"lds: {name} ({array.dtype}) hold values that are not finite numbers")
    if models < _LEAST_MODELS:
        raise UserError(
            f"lds: {models} models; expected at least {_LEAST_MODELS}, and hundreds for a useful"
            " interval"
        )


def _ranks(values: Float64[np.ndarray, "models test"]) -> Float64[np.ndarray, "models test"]:
    """Returns centered ranks over models."""
    ranks = rankdata(values, axis=0)
    return ranks - ranks.mean(axis=0)


def _correlations(
    first: Float64[np.ndarray, "models test"],
    second: Float64[np.ndarray, "models test"],
    weights: Float64[np.ndarray, "resamples models"],
) -> Float64[np.ndarray, "resamples test"]:
    """Returns the weighted correlations of two arrays over models, NaN where one is constant."""
    total = weights.sum(axis=1, keepdims=True)
    a, b, ab, aa, bb = (
        weights @ array / total for array in (first, second, first * second, first**2, second**2)
    )
    scale = np.sqrt(np.maximum(aa - a**2, 0) * np.maximum(bb - b**2, 0))
    return np.divide(ab - a * b, scale, out=np.full(scale.shape, np.nan), where=scale > 1e-9)


def _mean(values: Float64[np.ndarray, "*rows test"]) -> Float64[np.ndarray, "*rows"]:
    """Returns the mean of the values that are not NaN, NaN if there are none."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _ceiling(
    masks: Float64[np.ndarray, "models train"], margins: Float64[np.ndarray, "models test"]
) -> float:
    """Returns the square root of the mean share of variance that is linear in the masks."""
    varied = margins[:, margins.std(axis=0) > 0]
    inside = masks[:, masks.std(axis=0) > 0]
    if not varied.size or not inside.size:
        return float("nan")
    x, y = ((array - array.mean(axis=0)) / array.std(axis=0) for array in (inside, varied))
    kernel = x @ x.T / x.shape[1]
    # Centering makes the off-diagonal products -1 / models on average, on both sides.
    kernel += 1 / len(x)
    np.fill_diagonal(kernel, 0)
    products = y @ y.T / y.shape[1] + 1 / len(y)
    share = np.sum(kernel * products) / np.sum(kernel**2)
    return float(np.sqrt(np.clip(share, 0, 1)))
