"""Reads results.json of the findings."""

from collections.abc import Mapping
from typing import Any

from bat_jax.config import PARTS
from bat_jax.errors import UserError
from bat_jax.evaluation.records import AUTOATTACK, CLEAN, GROUPS, STATES, Measure, noted
from bat_jax.evaluation.tracking import SETS
from bat_jax.findings.differences import adjust
from bat_jax.findings.removal import CONTROLS
from bat_jax.runtime import schema
from bat_jax.runtime.schema import Flag, ListOf, Number, Object, Place, ShapeError, Text
from bat_jax.runtime.storage import AnyPath

_COUNT = Number(low=0, whole=True)
_TEST = Object({"only_first": _COUNT, "only_second": _COUNT, "p_value": Number(low=0, high=1)})
# A value over seeds: an accuracy, or a difference of two.
_OVER_SEEDS = Object(
    {"mean": Number(), "n": Number(low=1, whole=True)},
    {
        "values": ListOf(Number(), shortest=1),
        "interval": ListOf(Number(), length=2),
        "p_value": Number(low=0, high=1),
        "p_holm": Number(low=0, high=1),
        "images": _COUNT,
        "mcnemar": ListOf(_TEST),
        "looks": ListOf(
            Object({"seeds": Number(low=1, whole=True)}, {"interval": ListOf(Number(), length=2)}),
            shortest=1,
        ),
    },
)


class _Key:
    """The key of a measure."""

    def check(self, value: Any, place: Place) -> Any:
        if not isinstance(value, str) or not Measure.is_key(value):
            place.refuse(value, "a measure such as pgd20 or autoattack")
        return value


class _Curve:
    """Accuracies by epoch, one per epoch for every measure."""

    def check(self, value: Any, place: Place) -> Any:
        curve = Object(
            {
                "epochs": ListOf(Number(low=0), shortest=1),
                "images": _COUNT,
                CLEAN.key: ListOf(_OVER_SEEDS),
            },
            others=ListOf(_OVER_SEEDS),
        ).check(value, place)
        for name, values in curve.items():
            if isinstance(values, list) and len(values) != len(curve["epochs"]):
                raise ShapeError(
                    f"{place.file}: {place.names} has {len(values)} values of {name} for"
                    f" {len(curve['epochs'])} epochs; expected one per epoch"
                )
        return curve


def _measured(*required: str, **others: schema.Shape) -> Object:
    """Returns the schema of values by measure and by other names."""
    return Object(
        dict.fromkeys(required, _OVER_SEEDS), others, _OVER_SEEDS, Measure.is_key, "a measure"
    )


_GROUPED = dict.fromkeys(("all", *GROUPS), _measured(CLEAN.key))
_ROW = Object(
    {"against": Text(), "state": Text(STATES), CLEAN.key: _OVER_SEEDS},
    {"ours": Text(), "adversarial": Flag()},
    _OVER_SEEDS,
    Measure.is_key,
    "a measure",
)
_GAINS = Object(
    {},
    {
        "from_epoch": Number(low=0),
        "to_epoch": Number(low=0),
        "memorized": _OVER_SEEDS,
        **dict.fromkeys(GROUPS, _measured(clean_minus_robust=_OVER_SEEDS)),
    },
)
_REMOVAL: dict[str, schema.Shape] = {"part": Number(), "removed": _COUNT, "state": Text(STATES)}
_RESULTS = Object(
    {
        "attacks": Object(
            {**dict.fromkeys(PARTS, Object(dict.fromkeys(STATES, _Key()))), "tracked": _Key()}
        ),
        "at_chance": ListOf(Text()),
        "regime": Object(
            {
                **dict.fromkeys(("train", "test", "gap"), _OVER_SEEDS),
                "attack": _Key(),
                "bound": Number(),
                "holds": Flag(),
            }
        ),
        "curves": Object(others=Object({}, dict.fromkeys(SETS, _Curve()))),
        "gains": Object(others=_GAINS),
        "accuracies": Object(
            others=Object(
                dict.fromkeys(
                    STATES,
                    Object({"all": _GROUPED["all"]}, _GROUPED),
                )
            )
        ),
        "removal": ListOf(Object(_REMOVAL, _GROUPED)),
        "methods": ListOf(_ROW),
        "variants": ListOf(_ROW),
        "claims": ListOf(
            Object(
                dict.fromkeys(("name", "statement", "rule", "verdict", "numbers"), Text()),
                {"detectable": Text(), "settled": Text()},
            )
        ),
        "seconds": Number(low=0),
    },
    {
        # Results of older versions have neither.
        "tested": _COUNT,
        "autoattack": ListOf(Text(), shortest=1),
        "sampled": Object(
            {
                "attacks": ListOf(Text(), shortest=1),
                **dict.fromkeys(("images", "drawn", "broken"), _COUNT),
                "widest": Number(low=0, high=1),
            }
        ),
        "harmful": ListOf(Object({**_REMOVAL, "against": Text(CONTROLS)}, _GROUPED)),
        "design": Object(
            {
                "attack": _Key(),
                "factors": Object(),
                "effects": Object(others=Object(others=_OVER_SEEDS)),
                "medians": Object(others=Object(others=Number())),
                "winner": Object(),
            }
        ),
    },
)


def read_results(path: AnyPath) -> Mapping[str, Any]:
    """Reads the results.json of finished findings.

    The p values over seeds are adjusted anew, because older versions adjusted those of each arm of
    BAT alone.

    Raises:
      UserError: the file is missing or damaged.
      OSError: a system error prevented reading it.
    """
    what = "finished findings: run their command to the end"
    if not path.exists():
        raise UserError(f"{path.parent}: has no results.json; expected {what}")
    results: Mapping[str, Any] = schema.read(path, _RESULTS, what)
    for part in ("methods", "variants"):
        adjust(results[part])
    return results


def measure_title(results: Mapping[str, Any], key: str) -> str:
    """Returns the title of a measure, which names attacks other than AutoAttack's standard ones.

    It also names estimates from samples of the images.
    """
    title = Measure.parse(key).title
    if key != AUTOATTACK.key:
        return title
    return title + noted(results.get("autoattack", ()), is_sampled="sampled" in results)


def seeds_of(results: Mapping[str, Any]) -> int:
    """Returns the number of seeds behind results.json."""
    return int(results["accuracies"]["bat"]["best"]["all"][CLEAN.key]["n"])
