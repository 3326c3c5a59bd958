"""Makes classifiers of the Flax modules that users bring."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from bat_jax import outside
from bat_jax.errors import UserError
from bat_jax.models.nnx_classifier import NnxClassifier
from bat_jax.models.protocol import Classifier, pair

# The names of the switch between training and evaluation; True if the switch turns on evaluation.
_MODES = {"train": False, "training": False, "deterministic": True}


@dataclasses.dataclass(frozen=True)
class LinenClassifier:
    """A Linen module whose call does not take both `train` and `features`.

    Attributes:
      module: from [0, 1] images to logits. Its call may take `train`, `training` or `deterministic`
        for batch statistics and dropout, and `features` to return `(logits, features)`.
    """

    module: nn.Module

    def init(self, key: Any, images: Any) -> Any:
        """Returns the variables at the start of training."""
        return self.module.init(key, images, **self._options(train=False, features=False))

    def apply(
        self,
        variables: Any,
        images: Any,
        *,
        train: bool = False,
        features: bool = False,
        mutable: Any = False,
        rngs: Any = None,
    ) -> Any:
        """Returns the logits, and None for the features of a module that has none."""
        options = self._options(train=train, features=features)
        found: Any = self.module.apply(variables, images, mutable=mutable, rngs=rngs, **options)
        outputs, updated = found if mutable is not False else (found, {})
        if features and "features" not in options:
            outputs = (outputs, None)
        return pair(outputs, updated, mutable=mutable)

    def _options(self, *, train: bool, features: bool) -> dict[str, Any]:
        """Returns the options that the module's call takes."""
        taken = _parameters(self.module)
        options: dict[str, Any] = {
            name: train != evaluates for name, evaluates in _MODES.items() if name in taken
        }
        if "features" in taken:
            options["features"] = features
        return options


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A classifier whose training starts at given variables.

    Attributes:
      model: the classifier.
      variables: its variables at the start.
      fresh: names of parts of `params` that start as the classifier draws them, such as a head for
        other classes; their batch statistics do too.
    """

    model: Classifier
    variables: Mapping[str, Any]
    fresh: tuple[str, ...] = ()

    def init(self, key: Any, images: Any) -> Any:
        """Returns the given variables, with the fresh parts drawn by the key."""
        drawn = dict(self.model.init(key, images))
        where = f"pretrained variables of {name_of(self.model)}"
        unknown = [part for part in self.fresh if part not in drawn["params"]]
        if unknown:
            raise UserError(
                f"{where}: fresh names {unknown[0]!r}; expected parts of params, some of"
                f" {', '.join(drawn['params'])}"
            )
        wanted, given = self._kept(drawn), self._kept(self.variables)
        for at in sorted({*wanted, *given}):
            found, expected = (
                jnp.shape(tree[at]) if at in tree else None for tree in (given, wanted)
            )
            if found != expected:
                raise UserError(
                    f"{where}: {'/'.join(at)} has shape {found}; expected {expected}: give"
                    " variables of this model, or name the part in fresh"
                )
        # Copies: a train state is donated, and the given arrays stay the caller's.
        started = {at: jnp.array(given[at], leaf.dtype) for at, leaf in wanted.items()}
        return unflatten_dict({**flatten_dict(drawn), **started})

    def apply(self, variables: Any, images: Any, **options: Any) -> Any:
        """Returns what the classifier returns."""
        return self.model.apply(variables, images, **options)

    def _kept(self, variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
        """Returns the leaves of variables by path, without the fresh parts."""
        leaves = flatten_dict(dict(variables))
        return {at: leaf for at, leaf in leaves.items() if not {*at[1:2]} & {*self.fresh}}


@dataclasses.dataclass(frozen=True)
class Resized:
    """A classifier of images that are resized first, bilinearly and without aliasing.

    Attributes:
      model: the classifier.
      side: the side of the images that the classifier receives, in pixels.
    """

    model: Classifier
    side: int

    def init(self, key: Any, images: Any) -> Any:
        """Returns the variables at the start of training."""
        return self.model.init(key, self._resized(images))

    def apply(self, variables: Any, images: Any, **options: Any) -> Any:
        """Returns what the classifier returns for the resized images."""
        return self.model.apply(variables, self._resized(images), **options)

    def _resized(self, images: Any) -> Any:
        shape = (len(images), self.side, self.side, images.shape[-1])
        return jax.image.resize(images, shape, "bilinear")


def adapted(model: Any) -> Classifier:
    """Returns a model as the trainer calls it.

    Args:
      model: a Flax module from [0, 1] images, NHWC, to float32 logits; or a function of
        `nnx.Rngs` that returns an NNX module, to draw its parameters by the seed of the run. An NNX
        module is trained from its present values, in a copy.

    Raises:
      UserError: the model is something else.
    """
    if isinstance(model, nn.Module):
        taken = _parameters(model)
        has_both = all(
            name in taken and taken[name].default is False for name in ("train", "features")
        )
        return model if has_both else LinenClassifier(model)
    if isinstance(model, nnx.Module):
        return NnxClassifier.of(model)
    if isinstance(model, Classifier) and not isinstance(model, type):
        return model
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise UserError(
            f"model is the class {model.__name__}; expected a module of it:"
            f" {model.__name__}(...), with its number of classes"
        )
    reason = ""
    if callable(model):
        try:
            made = nnx.eval_shape(lambda: model(nnx.Rngs(0)))
        # The function is the user's, so it may raise anything.
        except Exception as error:
            reason = f" (calling it with nnx.Rngs fails: {outside.raised(error)})"
        else:
            if isinstance(made, nnx.Module):
                return NnxClassifier.of(model)
    raise UserError(
        f"model is a value of type {type(model).__name__}{reason}; expected a Flax module, of Linen"
        " or NNX, or a function of nnx.Rngs that returns an NNX module"
    )


def pretrained(
    model: Any, variables: Mapping[str, Any], *, fresh: Sequence[str] = ()
) -> Classifier:
    """Returns the model with training to start at the given variables.

    Args:
      model: any model that `adapted` takes.
      variables: its `params` and, if any, `batch_stats`, such as those of an earlier `fit`.
      fresh: names of parts of `params` to initialise again, such as a head for other classes.

    Raises:
      UserError: `adapted` rejects the model; or, when training starts, the variables do not fit it.
    """
    return Pretrained(adapted(model), variables, tuple(fresh))


def with_fields(model: Classifier, **fields: Any) -> Classifier:
    """Returns the model with other values of those fields that its module has."""
    if isinstance(model, Pretrained | Resized):
        return dataclasses.replace(model, model=with_fields(model.model, **fields))
    if isinstance(model, LinenClassifier):
        module: Any = with_fields(model.module, **fields)
        return dataclasses.replace(model, module=module)
    if not isinstance(model, nn.Module):
        return model
    known = {field.name for field in dataclasses.fields(model)}
    held = {name: value for name, value in fields.items() if name in known}
    return model.clone(**held) if held else model


def rematerialized(model: Classifier) -> Classifier:
    """Returns the model with its field `remat` set, to compute activations again.

    Raises:
      UserError: the model's module has no field `remat`.
    """
    if not hasattr(module_of(model), "remat"):
        raise UserError(
            f"config.model.remat is True; expected False for {name_of(model)}, which has no field"
            " remat: use a residual network, or nn.remat in your module"
        )
    return with_fields(model, remat=True)


def module_of(model: Classifier) -> Any:
    """Returns the module that a classifier wraps."""
    if isinstance(model, Pretrained | Resized):
        return module_of(model.model)
    return model.module if isinstance(model, LinenClassifier) else model


def path_of(model: Classifier) -> str:
    """Returns the class of a user's module, as `package.module:Class`."""
    kind = _kind(model)
    return f"{kind.__module__}:{kind.__qualname__}"


def name_of(model: Classifier) -> str:
    """Returns the name of the class of a user's module."""
    return _kind(model).__name__


def _kind(model: Any) -> type:
    module = module_of(model)
    return module.kind if isinstance(module, NnxClassifier) else type(module)


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(module).__call__).parameters
