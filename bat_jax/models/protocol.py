"""The interface of models, as the trainer calls them."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Classifier(Protocol):
    """An image classifier, as the trainer calls it.

    A Flax Linen module whose call takes `train` and `features` is one; `bat_jax.models.adapted`
    makes one of any other Flax module. `docs/extending.md` explains it.

    - Logits are float32 of shape `[batch, classes]`.
    - Features are the input of the linear layer that returns the logits, float32 of shape
      `[batch, features]`, or None for a model without features.
    - Variables are a mapping with `params`, which are trained, and, where a model normalises by
      statistics of the batch, `batch_stats`. Nothing else may change in a forward pass.
    """

    def init(self, key: Any, images: Any, /) -> Any:
        """Returns the variables at the start of training.

        Args:
          key: the key of all random draws.
          images: a batch in [0, 1], NHWC.
        """

    def apply(
        self,
        variables: Any,
        images: Any,
        /,
        *,
        train: bool = ...,
        features: bool = ...,
        mutable: Any = ...,
        rngs: Any = ...,
    ) -> Any:
        """Returns the logits of images.

        Args:
          variables: as `init` returns them.
          images: a batch in [0, 1], NHWC.
          train: whether to normalise by the batch's statistics, and to apply dropout.
          features: whether to return `(logits, features)` instead.
          mutable: the collections of variables whose update to return, as a second value.
          rngs: the key of dropout, as `{"params": key}`.
        """


def pair(outputs: Any, updated: Mapping[str, Any], *, mutable: Any) -> Any:
    """Returns the result of `apply`, with the updated variables if `mutable` names any."""
    return outputs if mutable is False else (outputs, updated)
