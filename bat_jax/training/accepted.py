"""Checks what models and methods from outside the package return."""

from collections.abc import Mapping
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from bat_jax import outside, parallel
from bat_jax.data import Dataset
from bat_jax.errors import UserError, in_short
from bat_jax.methods import Memory, Method, Metrics
from bat_jax.models import Classifier, name_of
from bat_jax.training.layout import leaves

# The parts of a train state, beside which checkpoints hold the memories by name.
_OWN_METRICS = {
    *("step", "epoch", "split", "loss", "accuracy", "gradient_norm", "lost_gradient"),
    *("learning_rate", "steps_per_second", "images_per_second", "utilisation"),
}
_TAKEN = ("step", "variables", "opt_state", "ema", "history")


def check_model(model: Classifier, dataset: Dataset, mesh: Mesh, method: Method) -> None:
    """Checks the shapes and types that a model returns, without computing anything.

    Args:
      model: the model, as the trainer calls it.
      dataset: the data set that the model is to classify.
      mesh: the devices, over which the model's batch norm may be synchronised.
      method: the training method, which may need features.

    Raises:
      UserError: the trainer cannot call the model, or the model returns something else than logits
        and features, changes variables other than batch statistics, or lacks features that the
        method needs.
    """
    name = f"model {name_of(model)}"

    def outputs(
        key: Key[Array, ""], images: Float[Array, "batch height width channels"]
    ) -> Float[Array, ""]:
        variables = model.init(key, images)
        if "params" not in variables:
            raise UserError(f"{name}: has no parameters; expected some to train")
        evaluated = model.apply(variables, images, train=False)
        trained, updated = model.apply(
            variables,
            images,
            train=True,
            features=True,
            mutable=["batch_stats"],
            rngs={"params": key},
        )
        if not (isinstance(trained, tuple) and len(trained) == 2):
            raise UserError(
                f"{name}: returns {_shown(trained)} where features is true; expected"
                " (logits, features)"
            )
        for logits in (evaluated, trained[0]):
            _check_logits(name, logits, (len(images), dataset.num_classes))
        _check_features(name, trained[1], len(images), method)
        if leaves(updated) != leaves({part: variables.get(part) for part in updated}):
            raise UserError(
                f"{name}: returns other batch statistics in training than init returns; expected"
                " the same names and shapes"
            )
        _check_statistics(name, updated)
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
    except flax.errors.ModifyScopeVariableError as error:
        raise UserError(
            f"{name}: changes a variable in a forward pass ({in_short(error)}); expected only"
            " variables of the collection 'batch_stats' to change"
        ) from error
    # The module is the user's, so it may raise anything.
    except Exception as error:
        raise UserError(
            f"{name}: fails for images of shape {dataset.image_shape}"
            f" ({outside.raised(error)}); expected a Flax module from images in [0, 1]"
            " to logits, whose call may take train and features"
        ) from error


def check_memory(method: Method, examples: int) -> dict[str, Memory]:
    """Returns the memories of a method by name, for a number of examples.

    Raises:
      UserError: the memories have no names, a name is that of a part of the train state, or a value
        is not a `Memory`.
    """
    found: Any = method.memory(examples)
    expected = f"expected a dict of memories by name, without the names {', '.join(_TAKEN)}"
    if not isinstance(found, Mapping):
        raise UserError(f"method {method.name}: memory() returns {_shown(found)}; {expected}")
    for name, memory in found.items():
        if not isinstance(name, str) or name in _TAKEN:
            raise UserError(f"method {method.name}: memory() has the name {name!r}; {expected}")
        if not isinstance(memory, Memory):
            raise UserError(
                f"method {method.name}: memory() has {_shown(memory)} as {name}; expected an object"
                " with the methods observed and after of bat_jax.methods.Memory"
            )
    return dict(found)


def check_before(method: Method, found: Any, images: int) -> Any:
    """Returns the result of a method's `before`, if each leaf has a row for every image.

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
    """Returns a method's loss and metrics, if they are numbers.

    Raises:
      UserError: the method's `loss` returns something else.
    """
    is_pair = isinstance(found, tuple) and len(found) == 2
    if not is_pair or getattr(found[0], "shape", None) != () or not isinstance(found[1], Mapping):
        raise UserError(
            f"method {method.name}: loss() returns {_shown(found)}; expected a number, the mean"
            " over the global batch, and a dict of metrics"
        )
    taken = sorted(_OWN_METRICS & found[1].keys())
    if taken:
        raise UserError(
            f"method {method.name}: loss() has a metric {taken[0]}, which the trainer records"
            " itself; expected another name"
        )
    for name, value in found[1].items():
        if jnp.shape(value) != ():
            raise UserError(
                f"method {method.name}: loss() has {_shown(value)} as the metric {name}; expected a"
                " number"
            )
    value, metrics = found
    return value, metrics


def _check_features(name: str, features: Any, images: int, method: Method) -> None:
    if features is None and not method.needs_features:
        return
    if features is None:
        raise UserError(
            f"{name}: has no features, which the objective {method.name} compares; expected a call"
            " that returns (logits, features) for features=True, or another config.objective"
        )
    if getattr(features, "shape", (0,))[:1] != (images,) or features.ndim != 2:
        raise UserError(
            f"{name}: returns features that are {_shown(features)} of {images} images; expected an"
            " array of shape (images, features)"
        )


def _check_statistics(name: str, updated: Mapping[str, Any]) -> None:
    """Checks that batch statistics can be averaged over devices without changing their type."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(updated):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            variable = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"{name}: has {_shown(leaf)} as {variable}; expected floating-point batch"
                " statistics, which are averaged over the devices"
            )


def _check_logits(name: str, logits: Any, shape: tuple[int, int]) -> None:
    if getattr(logits, "shape", None) != shape or logits.dtype != jnp.float32:
        raise UserError(
            f"{name}: returns logits that are {_shown(logits)} for {shape[0]} images of {shape[1]}"
            f" classes; expected float32 of shape {shape}"
        )


def _shown(value: Any) -> str:
    """Describes a value by its type and shape, for messages."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{jnp.dtype(value.dtype).name} of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(_shown(entry) for entry in value)})"
    return f"a value of type {type(value).__name__}"
