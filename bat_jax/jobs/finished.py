"""Detects finished runs by their results.json."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from bat_jax.runtime import distributed
from bat_jax.runtime.schema import ShapeError, name_aside
from bat_jax.runtime.storage import AnyPath

log = logging.getLogger(__name__)


def finished_results(
    path: AnyPath, read: Callable[[AnyPath], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Returns the content of results.json, or None for an unfinished run.

    A damaged file is renamed, with a warning, so that the run writes its results again.

    Args:
      path: the path of results.json.
      read: the function that reads the file.

    Raises:
      UserError: the path is not a regular file.
      OSError: a system error prevented reading it.
    """
    if not distributed.anywhere(path.exists()):
        return None
    results, damage = None, None
    with distributed.agreed():
        try:
            results = read(path)
        except ShapeError as error:
            damage = error
    # Rename only after every process has read the file.
    if not distributed.anywhere(damage is not None):
        return results
    with distributed.agreed():
        if distributed.is_main():
            aside = name_aside(path)
            path.rename(aside)
            log.warning("%s; the file is kept as %s, and written again", damage, aside.name)
    return None
