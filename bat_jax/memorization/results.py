"""The results.json of a memorization run, as it is read."""

from collections.abc import Mapping
from typing import Any

from bat_jax.errors import UserError
from bat_jax.runtime import schema
from bat_jax.runtime.schema import ListOf, Number, Object
from bat_jax.runtime.storage import AnyPath

_COUNT = Number(low=0, whole=True)
_MEMBERS = Number(low=1, high=10**7, whole=True)
# Rounding may take it a little beyond 1.
_CORRELATION = Number(low=-1.001, high=1.001)
_COUNTS = Object(
    {
        **dict.fromkeys(("examples", "atypical", "typical", "unknown"), _COUNT),
        "atypical_by_class": Object(others=Object({"atypical": _COUNT, "examples": _COUNT})),
    }
)
_SWEPT = Object(
    {"threshold": Number(), "train_atypical": _COUNT},
    {"test_atypical": _COUNT, "test_by_chance": Number(low=0)},
)
_BY_MEMBERS = Object(
    {
        "members": _MEMBERS,
        "rank_correlation": _CORRELATION,
        "n": _COUNT,
        "interval": ListOf(_CORRELATION, length=2),
    }
)
_RESULTS = Object(
    {"members": _MEMBERS, "threshold": Number(), "train": _COUNTS, "sweep": ListOf(_SWEPT)},
    {
        "test": _COUNTS,
        "mean_standard_error": Number(low=0),
        "split_half": Object(
            {}, {"rank_correlation": _CORRELATION, "variance_of_z": Number(low=0), "n": _COUNT}
        ),
        "split_half_by_members": ListOf(_BY_MEMBERS),
    },
)


def read_results(path: AnyPath) -> Mapping[str, Any]:
    """Reads results.json of a finished memorization run.

    Raises:
      UserError: there is none, or it is damaged.
      OSError: it cannot be read for a reason of the system.
    """
    what = "a finished run: run its command to the end"
    if not path.exists():
        raise UserError(f"{path.parent}: has no results.json; expected {what}")
    return schema.read(path, _RESULTS, what)
