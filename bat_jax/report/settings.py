"""The settings of finished runs, also of those that older versions made."""

import contextlib
from typing import Any

from bat_jax import methods
from bat_jax.config import default
from bat_jax.errors import UserError
from bat_jax.evaluation.runs import Run
from bat_jax.runtime import workdir as workdirs
from bat_jax.runtime.plain import plain
from bat_jax.runtime.workdir import filled


def whole(run: Run) -> dict[str, Any]:
    """Returns a run's plain config, with this version's defaults for the fields that it lacks.

    Raises:
      UserError: the run is of a newer version.
    """
    config, _ = workdirs.read(run.folder / "config.json")
    defaults = default()
    defaults.objective.name = run.config["objective"]["name"]
    # The fields of a method from outside that is not installed here stay as they are.
    with contextlib.suppress(UserError):
        methods.complete(defaults)
    return filled(config, plain(defaults))
