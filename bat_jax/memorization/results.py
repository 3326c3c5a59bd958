"""The results.json of a memorization run, as it is read."""

from collections.abc import Mapping
from typing import Any

from bat_jax.errors import UserError
from bat_jax.runtime import schema
from bat_jax.runtime.schema import ListOf, Number, Object, Shape
from bat_jax.runtime.storage import AnyPath

ROBUST_FILE = "robust_memorization.npz"
"""The estimates from attacked images, beside memorization.npz from clean ones."""

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
_SUMMARY: dict[str, Shape] = {
    "members": _MEMBERS,
    "threshold": Number(),
    "train": _COUNTS,
    "sweep": ListOf(_SWEPT),
}
_OPTIONAL: dict[str, Shape] = {
    "test": _COUNTS,
    "mean_standard_error": Number(low=0),
    "split_half": Object(
        {}, {"rank_correlation": _CORRELATION, "variance_of_z": Number(low=0), "n": _COUNT}
    ),
    "split_half_by_members": ListOf(_BY_MEMBERS),
}
_SIGNED = Object(
    {
        **dict.fromkeys(("pairs", "helpful", "harmful", "draws"), _COUNT),
        **dict.fromkeys(("helpful_by_chance", "harmful_by_chance"), Number(low=0)),
    }
)
_CONTRAST = Object(
    {"exchange": Object(others=Object({"value": Number(), "standard_error": Number(low=0)}))},
    {
        "rank_correlation": Object(
            {
                **dict.fromkeys(("value", "ceiling"), _CORRELATION),
                **dict.fromkeys(("interval", "ceiling_interval"), ListOf(_CORRELATION, length=2)),
                "n": _COUNT,
            }
        ),
        "influence": Object({"clean": _SIGNED, "robust": _SIGNED}),
    },
)
# Of members that are scored on clean and on attacked images, the summary is that of clean ones.
_BOTH: dict[str, Shape] = {"robust": Object(_SUMMARY, _OPTIONAL), "clean_and_robust": _CONTRAST}
_RESULTS = Object(_SUMMARY, {**_OPTIONAL, **_BOTH})


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
