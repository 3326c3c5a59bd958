"""Flax NNX modules as classifiers: their state becomes explicit variables."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from bat_jax.errors import UserError
from bat_jax.models.protocol import pair

# A path in a module's state, and the state: an NNX variable for each path.
_Path = tuple[Any, ...]
_State = dict[_Path, Any]
_COLLECTIONS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


@dataclasses.dataclass(frozen=True, eq=False)
class NnxClassifier:
    """An NNX module as `bat_jax.models.Classifier`.

    `nnx.Param` becomes `params` and `nnx.BatchStat` becomes `batch_stats`, nested by name. The keys
    of dropout are replaced by those of the step. Other variables stay as they are.

    Attributes:
      kind: the module's class.
      structure: the graph definition that `nnx.split` returns beside the state.
      state: all variables; only shapes if `make` is given.
      make: makes a module from `nnx.Rngs`; None starts training at `state`.
    """

    kind: type
    structure: Any
    state: _State
    make: Callable[[nnx.Rngs], Any] | None = None

    @classmethod
    def of(cls, model: Any) -> "NnxClassifier":
        """Returns the classifier of a module, or of a function of `nnx.Rngs` that makes one."""
        if isinstance(model, nnx.Module):
            structure, state = nnx.split(model)
            return cls(type(model), structure, _flat(state))
        shapes = nnx.eval_shape(lambda: model(nnx.Rngs(0)))
        structure, state = nnx.split(shapes)
        found = _flat(state)
        constant = [path for path, variable in found.items() if _is_constant(variable)]
        if constant:

            def values() -> list[Any]:
                made = _flat(nnx.state(model(nnx.Rngs(0))))
                return [made[path].get_value() for path in constant]

            # Compiled, so that only these are computed and no parameters are drawn.
            for path, value in zip(constant, jax.jit(values)(), strict=True):
                found[path] = found[path].replace(value)
        return cls(type(shapes), structure, found, model)

    def init(self, key: Any, images: Any) -> dict[str, Any]:
        """Returns the module's values, or those that its function draws by the key."""
        del images
        state = self.state if self.make is None else _flat(nnx.state(self.make(nnx.Rngs(key))))
        return _variables(state)

    def apply(
        self,
        variables: Mapping[str, Any],
        images: Any,
        *,
        train: bool = False,
        features: bool = False,
        mutable: Any = False,
        rngs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns the logits, and None for the features of a module that has none.

        Raises:
          UserError: the module changes a variable other than batch statistics.
        """
        state = self._filled(variables, rngs)
        before = {path: variable.get_value() for path, variable in state.items()}
        module: Any = nnx.merge(self.structure, nnx.from_flat_state(state))
        module.train() if train else module.eval()
        taken = inspect.signature(self.kind.__call__).parameters
        options = {"train": train, "features": features}
        found = module(images, **{name: on for name, on in options.items() if name in taken})
        if features and "features" not in taken:
            found = (found, None)
        after = _flat(nnx.state(module))
        for path, variable in after.items():
            if isinstance(variable, nnx.BatchStat | nnx.RngState):
                continue
            if variable.get_value() is not before.get(path):
                raise UserError(
                    f"model {self.kind.__name__}: changes {'.'.join(map(str, path))}, a variable of"
                    f" type {type(variable).__name__}, in a forward pass; expected only variables"
                    " of type nnx.BatchStat to change"
                )
        updated = {name: new for name, new in _variables(after).items() if name != "params"}
        return pair(found, updated, mutable=mutable)

    def _filled(self, variables: Mapping[str, Any], rngs: Mapping[str, Any] | None) -> _State:
        """Returns the state with the values of the variables, and with the keys of a step."""
        filled = {}
        given = {name: flatten_dict(dict(variables.get(name, {}))) for name in _COLLECTIONS}
        for number, (path, variable) in enumerate(self.state.items()):
            # A new object, which may change within this call.
            value = variable.replace(variable.get_value()) if _is_constant(variable) else variable
            for name, kind in _COLLECTIONS.items():
                if isinstance(variable, kind):
                    value = variable.replace(jnp.asarray(given[name][tuple(map(str, path))]))
            if isinstance(variable, nnx.RngKey):
                key = jax.random.key(0) if rngs is None else rngs["params"]
                value = variable.replace(jax.random.fold_in(key, number))
            elif isinstance(variable, nnx.RngCount):
                value = variable.replace(jnp.uint32(0))
            filled[path] = value
        return filled


def _flat(state: Any) -> _State:
    return dict(nnx.to_flat_state(state))


def _is_constant(variable: Any) -> bool:
    return not isinstance(variable, nnx.Param | nnx.BatchStat | nnx.RngState)


def _variables(state: _State) -> dict[str, Any]:
    """Returns the parameters and batch statistics of a state, nested by name."""
    found: dict[str, Any] = {}
    for name, kind in _COLLECTIONS.items():
        leaves = {
            tuple(map(str, path)): variable.get_value()
            for path, variable in state.items()
            if isinstance(variable, kind)
        }
        if leaves:
            found[name] = unflatten_dict(leaves)
    return found
