"""What the trainer accepts of models and methods from outside the package."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from bat_jax import outside, parallel
from bat_jax.data import Dataset
from bat_jax.errors import UserError
from bat_jax.methods import Memory, Method, Metrics

_CALL = "__call__(images, train=False, features=False)"
# The parts of a train state, beside which checkpoints hold the memories by name.
_TAKEN = ("step", "variables", "opt_state", "ema", "history")


def check_model(model: nn.Module, dataset: Dataset, mesh: Mesh) -> None:
    """Checks what a model returns, as shapes: nothing is computed.

    Args:
      model: any Flax module.
      dataset: whose images it is to classify.
      mesh: the devices, over which its batch norm may be synchronised.

    Raises:
      UserError: it cannot be called as the trainer calls models, or returns something else.
    """
    name = f"model {type(model).__name__}"

    def outputs(
        key: Key[Array, ""], images: Float[Array, "batch height width channels"]
    ) -> Float[Array, ""]:
        variables = model.init(key, images)
        if "params" not in variables:
            raise UserError(f"{name}: has no parameters; expected some to train")
        evaluated = model.apply(variables, images, train=False)
        trained, _ = model.apply(
            variables, images, train=True, features=True, mutable=["batch_stats"]
        )
        if not (isinstance(trained, tuple) and len(trained) == 2):
            raise UserError(
                f"{name}: returns {_shown(trained)} where features is true; expected"
                " (logits, features)"
            )
        for logits in (evaluated, trained[0]):
            _check_logits(name, logits, (len(images), dataset.num_classes))
        features = trained[1]
        if getattr(features, "shape", (0,))[:1] != (len(images),) or features.ndim != 2:
            raise UserError(
                f"{name}: returns features that are {_shown(features)} of {len(images)} images;"
                " expected an array of shape (images, features)"
            )
        return jnp.zeros(())

    checked = parallel.over_devices(
        outputs,
        mesh,
        in_specs=(parallel.REPLICATED, parallel.SHARED),
        out_specs=parallel.REPLICATED,
    )
    images = jax.ShapeDtypeStruct((2 * mesh.size, *dataset.image_shape), jnp.float32)
    try:
        # Models mix types where they compute in bfloat16.
        with jax.numpy_dtype_promotion("standard"):
            jax.eval_shape(checked, jax.eval_shape(lambda: jax.random.key(0)), images)
    except UserError:
        raise
    # The module is a user's own.
    except Exception as error:
        raise UserError(
            f"{name}: fails for images of shape {dataset.image_shape} ({outside.raised(error)});"
            f" expected a module with {_CALL}"
        ) from error


def check_memory(method: Method, examples: int) -> dict[str, Memory]:
    """Returns the memories of a method by name, for a number of examples.

    Raises:
      UserError: it is not by name, a name is that of a part of the train state, or a value is no
        `Memory`.
    """
    found: Any = method.memory(examples)
    expected = f"expected memories by name, none of them {', '.join(_TAKEN)}"
    if not isinstance(found, Mapping):
        raise UserError(f"method {method.name}: memory() returns {_shown(found)}; {expected}")
    for name, memory in found.items():
        if not isinstance(name, str) or name in _TAKEN:
            raise UserError(f"method {method.name}: memory() has the name {name!r}; {expected}")
        if not isinstance(memory, Memory):
            raise UserError(
                f"method {method.name}: memory() has {_shown(memory)} as {name}; expected an object"
                " with observed and after, as bat_jax.methods.Memory"
            )
    return dict(found)


def check_before(method: Method, found: Any, images: int) -> Any:
    """Returns what a method computed before the attack, if each leaf has a row for every image.

    Raises:
      UserError: a leaf has another shape.
    """
    for leaf in jax.tree.leaves(found):
        if jnp.shape(leaf)[:1] != (images,):
            raise UserError(
                f"method {method.name}: before() returns {_shown(leaf)}; expected arrays with a row"
                f" for each of the {images} images"
            )
    return found


def check_loss(method: Method, found: Any) -> tuple[Float[Array, ""], Metrics]:
    """Returns a method's loss and metrics, if they are such.

    Raises:
      UserError: they are something else.
    """
    is_pair = isinstance(found, tuple) and len(found) == 2
    if not is_pair or getattr(found[0], "shape", None) != () or not isinstance(found[1], Mapping):
        raise UserError(
            f"method {method.name}: loss() returns {_shown(found)}; expected a number, the mean"
            " over the global batch, and a dict of metrics"
        )
    for name, value in found[1].items():
        if jnp.shape(value) != ():
            raise UserError(
                f"method {method.name}: loss() has {_shown(value)} as the metric {name}; expected a"
                " number"
            )
    value, metrics = found
    return value, metrics


def _check_logits(name: str, logits: Any, shape: tuple[int, int]) -> None:
    if getattr(logits, "shape", None) != shape or logits.dtype != jnp.float32:
        raise UserError(
            f"{name}: returns logits that are {_shown(logits)} for {shape[0]} images of {shape[1]}"
            f" classes; expected float32 of shape {shape}"
        )


def _shown(value: Any) -> str:
    """Returns what a value is, for messages."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{jnp.dtype(value.dtype).name} of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(_shown(entry) for entry in value)})"
    return f"a value of type {type(value).__name__}"
