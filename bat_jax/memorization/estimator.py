"""The subset estimator of Feldman & Zhang, arXiv:2008.03703, with its standard errors.

Model m of M is trained on the subset S_m of the training examples. It scores c[m, i] on training
example i and d[m, j] on test example j. With q_in and q_out the mean scores of the models whose
subset has i and of those whose subset lacks i,

    mem(i)     = q_in - q_out  of  c[m, i]
    infl(i, j) = q_in - q_out  of  d[m, j]
    standard error = sqrt(v_in / n_in + v_out / n_out)

where v = mean(c^2) - q^2, which is q (1 - q) for scores of 0 and 1. Estimates are NaN where n_in or
n_out is 0.

The estimator `margin` takes margins for scores, and estimates the q of correctness from them with
a smaller error (`bat_jax.memorization.margins`). Its estimates are NaN where n_in or n_out is below
4.
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64, Shaped

from bat_jax.errors import UserError
from bat_jax.memorization import margins

_PAIRS = 1 << 20  # Of influence, estimated at a time.

InfluenceKind = Literal["class", "full", "none"]
Estimator = Literal["difference", "margin"]


class Influence(NamedTuple):
    """Influence of some training examples on some test examples (one class, in the released file).

    Attributes:
      train: rows of the training examples among the estimates.
      test: rows of the test examples among the estimates.
      values: infl(i, j).
      standard_error: standard errors of the values, None if they are unknown.
    """

    train: Int64[np.ndarray, " rows"]
    test: Int64[np.ndarray, " columns"]
    values: Float[np.ndarray, "rows columns"]
    standard_error: Float[np.ndarray, "rows columns"] | None = None


class EstimatorOutput(NamedTuple):
    """Memorization and influence with their standard errors.

    Attributes:
      memorization: mem(i), NaN where it is undefined.
      memorization_se: standard errors of mem(i).
      in_count: number of models whose subset has the example.
      out_count: number of models whose subset lacks the example.
      influence: blocks of infl(i, j): one for each class, one in all, or none.
    """

    memorization: Float64[np.ndarray, " train"]
    memorization_se: Float64[np.ndarray, " train"]
    in_count: Int64[np.ndarray, " train"]
    out_count: Int64[np.ndarray, " train"]
    influence: tuple[Influence, ...]


@dataclasses.dataclass
class _Block:
    """The sums that the influence of some examples on some test examples needs."""

    train: Int64[np.ndarray, " rows"]
    test: Int64[np.ndarray, " columns"]
    sums: Float[np.ndarray, "rows columns"]
    squares: Float[np.ndarray, "rows columns"] | None


class Statistics:
    """Sufficient statistics of the models so far, of a size that does not grow with their number.

    Sums of 0/1 scores are exact: the order of the models does not change the estimates.
    """

    def __init__(
        self,
        train_labels: Int[np.ndarray, " train"],
        test_labels: Int[np.ndarray, " test"],
        *,
        influence: InfluenceKind = "class",
        binary: bool = True,
        estimator: Estimator = "difference",
    ):
        """Begins with no models.

        Args:
          train_labels: labels of the training examples.
          test_labels: labels of the test examples.
          influence: `class` (pairs of the same class only), `full` or `none`.
          binary: whether all scores will be 0 or 1, which saves the sums of squares.
          estimator: `difference` of mean scores, or `margin`, whose scores are margins.
        """
        train, test = len(train_labels), len(test_labels)
        self._models = 0
        self._in_count = np.zeros(train, np.int64)
        self._of_margins = estimator == "margin"
        binary = binary and not self._of_margins
        # Rows: sums over all models and over those whose subset has the example; then of squares,
        # and of margins above 0.
        self._train = np.zeros((6 if self._of_margins else 4, train))
        self._test = np.zeros((2, test))
        self._binary = binary
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        if influence == "full" and test:
            pairs = [(np.arange(train), np.arange(test))]
        elif influence == "class" and test:
            pairs = [
                (np.flatnonzero(train_labels == label), np.flatnonzero(test_labels == label))
                for label in np.unique(train_labels)
            ]
        # Counts in float32 are exact up to 2^24 models.
        dtype = np.float32 if binary else np.float64
        self._blocks = [
            _Block(
                rows,
                columns,
                np.zeros((len(rows), len(columns)), dtype),
                None if binary else np.zeros((len(rows), len(columns))),
            )
            for rows, columns in pairs
        ]

    def update(
        self,
        masks: Bool[np.ndarray, "models train"],
        train_scores: Shaped[np.ndarray, "models train"],
        test_scores: Shaped[np.ndarray, "models test"],
    ) -> None:
        """Adds models by their subsets and scores (booleans, numbers from 0 to 1, or margins)."""
        scores = train_scores.astype(np.float64)
        self._models += len(masks)
        self._in_count += masks.sum(0)
        summed = (scores, scores**2, scores > 0) if self._of_margins else (scores, scores**2)
        for number, values in enumerate(summed):
            self._train[2 * number] += values.sum(0)
            self._train[2 * number + 1] += np.where(masks, values, 0.0).sum(0)
        tests = test_scores.astype(np.float32 if self._binary else np.float64)
        self._test += np.stack([tests.sum(0), (tests**2).sum(0)])
        for block in self._blocks:
            mask = masks[:, block.train].astype(tests.dtype).T
            columns = tests[:, block.test]
            block.sums += mask @ columns
            if block.squares is not None:
                block.squares += mask @ columns**2

    def estimated(self) -> EstimatorOutput:
        """Returns the estimates of the models so far."""
        n_in, n_out = self._in_count, self._models - self._in_count
        memorization, error = self._memorization(n_in, n_out)
        contrast = _contrast_of_margins if self._of_margins else _contrast
        blocks = []
        for block in self._blocks:
            total, square_total = self._test[:, None, block.test]
            squares = block.sums if block.squares is None else block.squares
            values, se = (np.empty(block.sums.shape, np.float32) for _ in range(2))
            # Some rows at a time: all pairs would take several float64 copies.
            step = max(1, _PAIRS // max(1, len(block.test)))
            for start in range(0, len(block.train), step):
                rows = slice(start, start + step)
                examples = block.train[rows]
                values[rows], se[rows] = contrast(
                    n_in[examples, None],
                    n_out[examples, None],
                    total,
                    block.sums[rows],
                    square_total,
                    squares[rows],
                )
            blocks.append(Influence(block.train, block.test, values, se))
        return EstimatorOutput(memorization, error, n_in.copy(), n_out, tuple(blocks))

    def _memorization(
        self, n_in: Int64[np.ndarray, " train"], n_out: Int64[np.ndarray, " train"]
    ) -> tuple[Float64[np.ndarray, " train"], Float64[np.ndarray, " train"]]:
        """Returns mem(i) and its standard error."""
        if not self._of_margins:
            return _contrast(n_in, n_out, *self._train)
        total, inside, square_total, square_inside, right_total, right_inside = self._train
        q_in, v_in = margins.probability_correct(
            margins.moments(n_in, inside, square_inside), right_inside
        )
        q_out, v_out = margins.probability_correct(
            margins.moments(n_out, total - inside, square_total - square_inside),
            right_total - right_inside,
        )
        return q_in - q_out, np.sqrt(v_in + v_out)


def estimate(
    masks: Shaped[np.ndarray, "models train"],
    train_correct: Shaped[np.ndarray, "models train"],
    test_correct: Shaped[np.ndarray, "models test"] | None = None,
    *,
    influence: InfluenceKind = "full",
    estimator: Estimator = "difference",
    train_labels: Int[np.ndarray, " train"] | None = None,
    test_labels: Int[np.ndarray, " test"] | None = None,
) -> EstimatorOutput:
    """Returns memorization and influence estimates from the scores of models.

    Args:
      masks: S_m, whether a model had an example in its subset: booleans, or 0 and 1 of any type.
      train_correct: c[m, i], booleans, or probabilities of the label; for the estimator `margin`,
        margins, which are above 0 where the model is right.
      test_correct: d[m, j], of the same kind; without it there is no influence.
      influence: `full`, `class` (pairs of the same class, which needs the labels) or `none`.
      estimator: `difference` of mean scores, or `margin`: the same difference of probabilities of
        being right, from margins, with a smaller error.
      train_labels: labels of the training examples.
      test_labels: labels of the test examples.

    Raises:
      UserError: masks other than 0 and 1, scores that are not finite numbers, shapes that do not
        match, no models, `class` without labels, or for `margin` booleans or too few models.
    """
    if test_correct is None:
        test_correct, influence = np.zeros((len(masks), 0), bool), "none"
    if not len(masks) or not len(masks) == len(train_correct) == len(test_correct):
        raise UserError(
            f"estimate: {len(masks)} masks, {len(train_correct)} rows of training and"
            f" {len(test_correct)} of test scores; expected one each for every model, and a model"
        )
    if masks.shape != train_correct.shape:
        raise UserError(
            f"estimate: masks have shape {masks.shape}, training scores {train_correct.shape};"
            " expected the same, (models, training examples)"
        )
    if masks.ndim != 2 or test_correct.ndim != 2:
        raise UserError(
            f"estimate: masks have {masks.ndim} axes, test scores {test_correct.ndim}; expected 2,"
            " (models, examples)"
        )
    masks = _as_booleans(masks)
    _check_scores("train_correct", train_correct)
    _check_scores("test_correct", test_correct)
    if influence not in ("class", "full", "none"):
        raise UserError(f"estimate: influence is {influence!r}; expected class, full or none")
    if influence == "class" and (train_labels is None or test_labels is None):
        raise UserError("estimate: influence is 'class'; expected train_labels and test_labels")
    if train_labels is None:
        train_labels = np.zeros(masks.shape[1], np.int32)
    if test_labels is None:
        test_labels = np.zeros(test_correct.shape[1], np.int32)
    for what, labels, scores in (
        ("train", train_labels, train_correct),
        ("test", test_labels, test_correct),
    ):
        if labels.shape != scores.shape[1:]:
            raise UserError(
                f"estimate: {what}_labels have shape {labels.shape}; expected {scores.shape[1:]},"
                f" one for every column of {what}_correct"
            )
    if estimator not in ("difference", "margin"):
        raise UserError(f"estimate: estimator is {estimator!r}; expected difference or margin")
    if estimator == "margin":
        _check_margins(masks, train_correct)
        if influence != "none" and test_correct.size:
            _check_are_margins("test_correct", test_correct)
    statistics = Statistics(
        train_labels,
        test_labels,
        influence=influence,
        binary=train_correct.dtype == np.bool_ and test_correct.dtype == np.bool_,
        estimator=estimator,
    )
    statistics.update(masks, train_correct, test_correct)
    return statistics.estimated()


def _as_booleans(masks: Shaped[np.ndarray, "models train"]) -> Bool[np.ndarray, "models train"]:
    if masks.dtype == np.bool_:
        return masks
    if masks.dtype.kind not in "iuf" or not np.all((masks == 0) | (masks == 1)):
        raise UserError(
            f"estimate: masks ({masks.dtype}) hold values other than 0 and 1; expected 1 where a"
            " model had the example in its subset, 0 elsewhere"
        )
    return masks == 1


def _check_scores(name: str, scores: Shaped[np.ndarray, "models examples"]) -> None:
    if scores.dtype.kind not in "biuf" or not np.isfinite(scores).all():
        raise UserError(
            f"estimate: {name} ({scores.dtype}) holds values that are not finite numbers; expected"
            " booleans, or probabilities of the label"
        )


def _check_are_margins(name: str, scores: Shaped[np.ndarray, "models examples"]) -> None:
    if scores.dtype == np.bool_ or np.all((scores >= 0) & (scores <= 1)):
        raise UserError(
            f"estimate: {name} ({scores.dtype}) holds no margins; expected for the estimator margin"
            " the logit of the label less the largest other one"
        )


def _check_margins(
    masks: Bool[np.ndarray, "models train"], scores: Shaped[np.ndarray, "models train"]
) -> None:
    _check_are_margins("train_correct", scores)
    counts = np.minimum(masks.sum(0), (~masks).sum(0))
    if not np.any(counts >= margins.LEAST):
        raise UserError(
            f"estimate: at most {counts.max(initial=0)} of {len(masks)} models with and without the"
            f" same example; expected {margins.LEAST} of both for the estimator margin: train more"
            " models, or choose difference"
        )


def _contrast_of_margins(
    n_in: Int[np.ndarray, "*shape"],
    n_out: Int[np.ndarray, "*shape"],
    total: Float[np.ndarray, "*any"],
    inside: Float[np.ndarray, "*out"],
    square_total: Float[np.ndarray, "*any"],
    square_inside: Float[np.ndarray, "*out"],
) -> tuple[Float64[np.ndarray, "*out"], Float64[np.ndarray, "*out"]]:
    """Returns infl(i, j) from margins and its standard error, NaN where a count is below 4."""
    return margins.difference_of_normals(
        margins.moments(n_in, inside, square_inside),
        margins.moments(n_out, total - inside, square_total - square_inside),
    )


def _contrast(
    n_in: Int[np.ndarray, "*shape"],
    n_out: Int[np.ndarray, "*shape"],
    total: Float[np.ndarray, "*any"],
    inside: Float[np.ndarray, "*out"],
    square_total: Float[np.ndarray, "*any"],
    square_inside: Float[np.ndarray, "*out"],
) -> tuple[Float64[np.ndarray, "*out"], Float64[np.ndarray, "*out"]]:
    """Returns q_in - q_out and its standard error, NaN where a count is 0."""
    count_in, count_out = (np.where(n > 0, n, np.nan) for n in (n_in, n_out))
    q_in, q_out = inside / count_in, (total - inside) / count_out
    v_in = np.maximum(square_inside / count_in - q_in**2, 0.0)
    v_out = np.maximum((square_total - square_inside) / count_out - q_out**2, 0.0)
    return q_in - q_out, np.sqrt(v_in / count_in + v_out / count_out)
