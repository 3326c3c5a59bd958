"""The losses of adversarial training and of BAT, as pure functions.

Per-example functions return one value per example. The functions of a whole batch take an
`axis_name`: inside `jax.shard_map` or `jax.pmap` they then compute over the global batch and return
its value on every device, so that a result does not depend on how many devices share the batch.
Under `jax.pmap` or `jax.shard_map(check_vma=False)`, average the gradients of such a value over the
axis (`jax.lax.pmean`). `cross_entropy` calls optax.

Sections refer to docs/method.md, which distinguishes published from reconstructed forms.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "Denominator",
    "Gate",
    "Normalize",
    "Pooling",
    "Similarity",
    "bat",
    "bat_weights",
    "cross_entropy",
    "discrimination",
    "gairat_weights",
    "gradient_alignment",
    "kl_divergence",
    "label_smoothing",
    "mart",
    "reweighted",
    "temporal_ensembling",
    "temporal_target",
    "trades",
    "weighted_mean",
    "wrong_class_confidence",
]

Gate = Literal["misclassified", "all", "memorized"]
"""The images that BAT weights; the others have weight 1 (section 4)."""
Normalize = Literal["sum", "none"]
"""Whether a weighted loss is divided by the sum of the weights (section 4)."""
Similarity = Literal["cosine", "dot"]
"""The similarity of two feature vectors (section 5)."""
Denominator = Literal["all", "negatives"]
"""The images in the denominator of the discrimination loss (section 5)."""
Pooling = Literal["sum", "mean"]
"""How the discrimination loss combines an anchor's positives (section 5)."""


def weighted_mean(
    values: Float[Array, " batch"],
    weights: Float[Array, " batch"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Returns the weighted mean over the global batch, sum_i w_i v_i / sum_i w_i.

    Args:
      values: per-example values, shape `[batch]`.
      weights: non-negative weights, shape `[batch]`. Weights that are all 0 give 0.
      axis_name: the mapped axis that the batch is shared over, if any.
    """
    weighted, total = _global_sum((jnp.sum(values * weights), jnp.sum(weights)), axis_name)
    return jnp.where(total > 0, weighted / jnp.where(total > 0, total, 1.0), 0.0)


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"] | Float[Array, "batch classes"],
) -> Float[Array, " batch"]:
    """Returns -sum_k t_k log p_k, per example; 0 log 0 counts as 0.

    Args:
      logits: shape `[batch, classes]`.
      labels: class indices, shape `[batch]`, or class probabilities t, shape `[batch, classes]`.
    """
    if labels.ndim == logits.ndim:
        return optax.safe_softmax_cross_entropy(logits, labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def wrong_class_confidence(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Returns q_i = max_{k != y_i} p_k, the confidence in a wrong class (section 4).

    Args:
      logits: shape `[batch, classes]`.
      labels: class indices, shape `[batch]`.
    """
    return jnp.max(jnp.where(is_class(logits, labels), 0.0, jax.nn.softmax(logits)), axis=-1)


def kl_divergence(
    logits: Float[Array, "batch classes"], other_logits: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Returns KL(p || p'), in nats, of the softmax p of `logits` and p' of `other_logits`.

    0 log 0 counts as 0, so that a class whose logits are -inf has no effect.

    Args:
      logits: the logits of p, shape `[batch, classes]`.
      other_logits: the logits of p', shape `[batch, classes]`.
    """
    log_p, log_other = jax.nn.log_softmax(logits), jax.nn.log_softmax(other_logits)
    # Replaced before the product, whose gradient would be NaN at -inf.
    is_zero = jnp.exp(log_p) == 0
    log_p, log_other = (jnp.where(is_zero, 0.0, logs) for logs in (log_p, log_other))
    return optax.losses.kl_divergence_with_log_targets(log_other, log_p)


def label_smoothing(
    labels: Int[Array, " batch"], num_classes: int, *, amount: float
) -> Float[Array, "batch classes"]:
    """Returns smoothed class probabilities, (1 - amount) one_hot(y) + amount / num_classes.

    Args:
      labels: class indices, shape `[batch]`.
      num_classes: C.
      amount: the probability that is spread evenly over all classes, the label among them.

    References:
      Szegedy et al., Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567
    """
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), amount)


def trades(
    clean_logits: Float[Array, "batch classes"],
    adversarial_logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    beta: float,
    targets: Float[Array, "batch classes"] | None = None,
) -> Float[Array, " batch"]:
    """TRADES, per example: CE(z(x), y) + beta KL(p(x) || p(x')).

    Args:
      clean_logits: z(x), shape `[batch, classes]`.
      adversarial_logits: z(x'), shape `[batch, classes]`.
      labels: class indices, shape `[batch]`.
      beta: weight of the divergence; 6 in the paper.
      targets: class probabilities, shape `[batch, classes]`, that replace the labels in the
        cross-entropy. They do not enter the divergence.

    References:
      Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy,
      arXiv:1901.08573
    """
    natural = cross_entropy(clean_logits, labels if targets is None else targets)
    return natural + beta * kl_divergence(clean_logits, adversarial_logits)


def mart(
    clean_logits: Float[Array, "batch classes"],
    adversarial_logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    beta: float,
) -> Float[Array, " batch"]:
    """MART, per example.

        -log p_y(x') - log(1 - max_{k != y} p_k(x')) + beta KL(p(x) || p(x')) (1 - p_y(x))

    Args:
      clean_logits: z(x), shape `[batch, classes]`.
      adversarial_logits: z(x'), shape `[batch, classes]`.
      labels: class indices, shape `[batch]`.
      beta: weight of the last term; 5 in the paper.

    References:
      Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples,
      ICLR 2020
    """
    fit = cross_entropy(adversarial_logits, labels)
    wrong = jnp.where(is_class(adversarial_logits, labels), -jnp.inf, adversarial_logits)
    is_strongest_wrong = is_class(adversarial_logits, jnp.argmax(wrong, axis=-1))
    # 1 - p_k is the sum of the other probabilities: their log stays finite where p_k rounds to 1.
    log_not_wrong = jax.nn.logsumexp(
        adversarial_logits, axis=-1, where=~is_strongest_wrong
    ) - jax.nn.logsumexp(adversarial_logits, axis=-1)
    not_confident = 1.0 - _at_label(jax.nn.softmax(clean_logits), labels)
    divergence = kl_divergence(clean_logits, adversarial_logits)
    return fit - log_not_wrong + beta * divergence * not_confident


def temporal_target(average: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
    """Returns t_i = E_i / sum_k E_ik, the running average E_i without the bias of its start at 0.

    Args:
      average: E, shape `[batch, classes]`. Rows of zeros stay zeros.

    References:
      Dong et al., Exploring Memorization in Adversarial Training, arXiv:2106.01606
    """
    total = jnp.sum(average, axis=-1, keepdims=True)
    return average / jnp.where(total > 0, total, 1.0)


def temporal_ensembling(
    probabilities: Float[Array, "batch classes"], target: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """The regulariser of temporal ensembling, per example: mean_k (q_ik - t_ik)^2.

    Args:
      probabilities: q, shape `[batch, classes]`.
      target: t, from `temporal_target`, shape `[batch, classes]`.

    References:
      Dong et al., Exploring Memorization in Adversarial Training, arXiv:2106.01606
    """
    return jnp.mean((probabilities - target) ** 2, axis=-1)


def gradient_alignment(
    logits_fn: Callable[
        [Float[Array, "batch height width channels"]], Float[Array, "batch classes"]
    ],
    images: Float[Array, "batch height width channels"],
    labels: Int[Array, " batch"],
    noise: Float[Array, "batch height width channels"],
) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
    """GradAlign's cosine, cos(g(x), g(x + noise)), g the gradient of the cross-entropy in x.

    It is differentiable through g(x + noise) alone. x + noise is not clipped to [0, 1].

    Args:
      logits_fn: images to logits, shape `[batch, classes]`.
      images: x, shape `[batch, height, width, channels]`.
      labels: class indices, shape `[batch]`.
      noise: the shape of the images, uniform within epsilon in the paper.

    Returns:
      The cosine of each image, and whether it is defined. Where a gradient is 0, the cosine is
      undefined, and 0 is returned.

    References:
      Andriushchenko & Flammarion, Understanding and Improving Fast Adversarial Training,
      arXiv:2007.02617
    """

    def loss(x: Float[Array, "batch height width channels"]) -> Float[Array, ""]:
        return jnp.sum(cross_entropy(logits_fn(x), labels))

    def unit(gradient: Float[Array, "batch height width channels"]) -> tuple[Array, Array]:
        rows = gradient.reshape(len(gradient), -1)
        # Squares of small gradients underflow in float32. The cosine does not depend on the scale.
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1, keepdims=True))
        is_zero = largest == 0
        rows = jnp.where(is_zero, 1.0, rows / jnp.where(is_zero, 1.0, largest))
        return rows / jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True)), ~is_zero[:, 0]

    first, has_first = unit(jax.lax.stop_gradient(jax.grad(loss)(images)))
    second, has_second = unit(jax.grad(loss)(images + noise))
    is_defined = has_first & has_second
    return jnp.where(is_defined, jnp.sum(first * second, axis=1), 0.0), is_defined


def gairat_weights(
    robust_steps: Int[Array, " batch"],
    *,
    num_steps: int,
    lam: float,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """GAIRAT's weights, (1 + tanh(lam + 5 (1 - 2 kappa_i / K))) / 2, scaled to a mean of 1.

    Args:
      robust_steps: kappa_i, the number of attack steps after which example i was still classified
        correctly, 0 to K, shape `[batch]`.
      num_steps: K.
      lam: lambda, the shift; -1 in the paper.
      axis_name: the mapped axis that the batch is shared over, if any; the mean is that of the
        global batch.

    References:
      Zhang et al., Geometry-aware Instance-reweighted Adversarial Training, arXiv:2010.01736
    """
    kappa = robust_steps.astype(jnp.float32)
    # (1 + tanh(a)) / 2 = sigmoid(2 a), which keeps its relative precision far from 0.
    weights = jax.nn.sigmoid(2.0 * (lam + 5.0 * (1.0 - 2.0 * kappa / num_steps)))
    return weights / weighted_mean(weights, jnp.ones_like(weights), axis_name=axis_name)


def bat_weights(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    alpha: float,
    gate: Gate = "misclassified",
    memorization: Float[Array, " batch"] | None = None,
    threshold: float = 0.15,
    confidence_logits: Float[Array, "batch classes"] | None = None,
) -> Float[Array, " batch"]:
    """BAT's weights (section 4, reconstructed): exp(-alpha q_i) where the gate is open, else 1.

    q_i = max_{k != y} p_k is the confidence in a wrong class. No gradient flows through a weight.

    Args:
      logits: z(x'), shape `[batch, classes]`.
      labels: class indices, shape `[batch]`.
      alpha: how fast the weight falls with q_i; 0 makes every weight 1.
      gate: which examples may be weighted down: `misclassified`, those with argmax z(x') != y;
        `all`; `memorized`, those with memorization above `threshold`.
      memorization: mem(i), shape `[batch]`, for the gate `memorized` only. NaN (unknown) closes the
        gate.
      threshold: t, for the gate `memorized`.
      confidence_logits: replaces `logits` in q_i: z(x) for the confidence on clean images.

    Raises:
      ValueError: an unknown gate, or the gate `memorized` without `memorization`.

    References:
      Xu et al., Towards the Memorization Effect of Neural Networks in Adversarial Training,
      arXiv:2106.04794
    """
    if gate == "misclassified":
        is_open = jnp.argmax(logits, axis=-1) != labels
    elif gate == "all":
        is_open = jnp.ones(labels.shape, bool)
    elif gate == "memorized":
        if memorization is None:
            raise ValueError("bat_weights: the gate 'memorized' needs `memorization`; got None")
        is_open = memorization > threshold
    else:
        raise ValueError(f"bat_weights: gate is {gate!r}; expected misclassified, all or memorized")
    confidence = wrong_class_confidence(
        logits if confidence_logits is None else confidence_logits, labels
    )
    return jax.lax.stop_gradient(jnp.where(is_open, jnp.exp(-alpha * confidence), 1.0))


def reweighted(
    losses: Float[Array, " batch"],
    weights: Float[Array, " batch"],
    *,
    normalize: Normalize = "sum",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The reweighted loss over the global batch (section 4).

    Args:
      losses: per-example losses, shape `[batch]`.
      weights: w_i, shape `[batch]`.
      normalize: `sum`, sum_i w_i l_i / sum_i w_i; `none`, the plain mean of w_i l_i.
      axis_name: the mapped axis that the batch is shared over, if any.

    Raises:
      ValueError: an unknown normalisation.
    """
    if normalize == "sum":
        return weighted_mean(losses, weights, axis_name=axis_name)
    if normalize == "none":
        return weighted_mean(weights * losses, jnp.ones_like(losses), axis_name=axis_name)
    raise ValueError(f"reweighted: normalize is {normalize!r}; expected sum or none")


def discrimination(
    features: Float[Array, "batch features"],
    labels: Int[Array, " batch"],
    *,
    temperature: float,
    similarity: Similarity = "cosine",
    denominator: Denominator = "all",
    pooling: Pooling = "sum",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The discrimination loss (section 5, reconstructed), a soft-nearest-neighbour loss.

        mean_i  -log( sum_{j != i, y_j = y_i} e^{s_ij / tau} / sum_{k in D(i)} e^{s_ik / tau} )

    over the anchors i that have a positive j; without any, it is exactly 0. Pairs come from the
    global batch, and gradients flow to both sides of a pair.

    Args:
      features: h(x'), shape `[batch, width]`.
      labels: class indices, shape `[batch]`.
      temperature: tau.
      similarity: s_ij, `cosine` or `dot`.
      denominator: D(i), `all` others or the `negatives` (y_k != y_i). An anchor without a negative
        is left out under `negatives`.
      pooling: how an anchor's positives are combined: their `sum` inside the logarithm, as above,
        or the `mean` of their -log, the form of supervised contrastive learning.
      axis_name: the mapped axis that the batch is shared over, if any.

    Raises:
      ValueError: an unknown option.

    References:
      Frosst et al., Analyzing and Improving Representations with the Soft Nearest Neighbor Loss,
      arXiv:1902.01889; Khosla et al., Supervised Contrastive Learning, arXiv:2004.11362
    """
    features = features.astype(jnp.float32)
    if similarity == "cosine":
        # The bound keeps the gradient of an all-zero feature vector finite.
        squares = jnp.sum(features**2, axis=-1, keepdims=True)
        features = features * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
    elif similarity != "dot":
        raise ValueError(f"discrimination: similarity is {similarity!r}; expected cosine or dot")

    others, other_labels, place = features, labels, jnp.arange(len(labels))
    if axis_name is not None:
        others = jax.lax.all_gather(features, axis_name, tiled=True)
        other_labels = jax.lax.all_gather(labels, axis_name, tiled=True)
        place = place + len(labels) * jax.lax.axis_index(axis_name)
    similarities = jnp.matmul(features, others.T, precision="highest") / temperature

    other = place[:, None] != jnp.arange(len(other_labels))[None, :]
    same = labels[:, None] == other_labels[None, :]
    positives = same & other
    if denominator == "all":
        compared = other
    elif denominator == "negatives":
        compared = ~same
    else:
        raise ValueError(
            f"discrimination: denominator is {denominator!r}; expected all or negatives"
        )
    is_anchor = jnp.any(positives, axis=-1) & jnp.any(compared, axis=-1)
    # Rows that are left out use every pair, so that no NaN enters their gradient.
    positives = positives | ~is_anchor[:, None]
    compared = compared | ~is_anchor[:, None]

    log_denominator = jax.nn.logsumexp(similarities, axis=-1, where=compared)
    if pooling == "sum":
        log_positives = jax.nn.logsumexp(similarities, axis=-1, where=positives)
    elif pooling == "mean":
        log_positives = jnp.mean(similarities, axis=-1, where=positives)
    else:
        raise ValueError(f"discrimination: pooling is {pooling!r}; expected sum or mean")
    losses = jnp.where(is_anchor, log_denominator - log_positives, 0.0)
    return weighted_mean(losses, is_anchor.astype(jnp.float32), axis_name=axis_name)


def bat(
    adversarial_logits: Float[Array, "batch classes"],
    features: Float[Array, "batch features"],
    labels: Int[Array, " batch"],
    *,
    alpha: float,
    beta_dl: float,
    temperature: float,
    gate: Gate = "misclassified",
    memorization: Float[Array, " batch"] | None = None,
    threshold: float = 0.15,
    confidence_logits: Float[Array, "batch classes"] | None = None,
    normalize: Normalize = "sum",
    similarity: Similarity = "cosine",
    denominator: Denominator = "all",
    pooling: Pooling = "sum",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The objective of BAT: the reweighted cross-entropy + beta_dl L_DL (sections 4 and 5).

    Args:
      adversarial_logits: z(x'), shape `[batch, classes]`.
      features: h(x'), shape `[batch, width]`.
      labels: class indices, shape `[batch]`.
      alpha: see `bat_weights`.
      beta_dl: weight of the discrimination loss; 0 leaves it out.
      temperature: see `discrimination`.
      gate: see `bat_weights`.
      memorization: see `bat_weights`.
      threshold: see `bat_weights`.
      confidence_logits: see `bat_weights`.
      normalize: see `reweighted`.
      similarity: see `discrimination`.
      denominator: see `discrimination`.
      pooling: see `discrimination`.
      axis_name: the mapped axis that the batch is shared over, if any.

    References:
      Xu et al., arXiv:2106.04794
    """
    weights = bat_weights(
        adversarial_logits,
        labels,
        alpha=alpha,
        gate=gate,
        memorization=memorization,
        threshold=threshold,
        confidence_logits=confidence_logits,
    )
    fit = cross_entropy(adversarial_logits, labels)
    loss = reweighted(fit, weights, normalize=normalize, axis_name=axis_name)
    if beta_dl == 0:
        return loss
    return loss + beta_dl * discrimination(
        features,
        labels,
        temperature=temperature,
        similarity=similarity,
        denominator=denominator,
        pooling=pooling,
        axis_name=axis_name,
    )


def is_class(
    logits: Float[Array, "batch classes"], classes: Int[Array, " batch"]
) -> Bool[Array, "batch classes"]:
    """Returns which logit is that of the class, per example."""
    # A comparison rather than an index, which avoids a gather and, in the gradient, a scatter.
    return jnp.arange(logits.shape[-1])[None, :] == classes[:, None]


def _at_label(
    values: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    return jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]


def _global_sum(
    values: tuple[Float[Array, ""], ...], axis_name: str | None
) -> tuple[Float[Array, ""], ...]:
    return values if axis_name is None else jax.lax.psum(values, axis_name)
