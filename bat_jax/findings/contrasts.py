"""The paired differences over seeds that the verdicts rest on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bat_jax.evaluation.records import CLEAN, Measure, kind_of_tested
from bat_jax.findings.removal import Removal
from bat_jax.methods import has_attack


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A difference of accuracies that is measured once per seed.

    Attributes:
      claim: the finding that rests on it: `a`, `b` or `c`.
      name: what is subtracted from what, in which state.
      measure: `clean`, or the title of the attack.
      images: how many test images it is measured on.
      values: one difference per seed; none before the runs.
      discordant: the fraction of images on which the two runs of a seed disagree, if it is known.
      arms: the runs behind it, by arm.
    """

    claim: str
    name: str
    measure: str
    images: int
    values: tuple[float, ...] = ()
    discordant: float | None = None
    arms: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether it is a difference of clean accuracies."""
        return self.measure == CLEAN.title

    @property
    def title(self) -> str:
        """The claim, the name and the measure."""
        return f"({self.claim}) {self.name}, {self.measure}"


def measured(summary: Mapping[str, Any]) -> list[Contrast]:
    """Returns the contrasts of finished findings, also of results of older versions.

    Args:
      summary: the content of results.json.
    """
    return [*_gains(summary), *_removals(summary), *_comparisons(summary)]


def gain(measure: str, *, tested: str, **fields: Any) -> Contrast:
    """Returns the contrast of a gain of pgd_at on atypical images of those tested."""
    return Contrast("a", f"gain of pgd_at, atypical {tested}", measure, **fields)


def removal(of: Removal, state: str, measure: str, *, tested: str, **fields: Any) -> Contrast:
    """Returns the contrast of a removal and its control on typical images of those tested."""
    name = f"{100 * of.part:g} % {of.kind} minus {of.control} removed, {state}, typical {tested}"
    return Contrast("b", name, measure, arms=of.arms, **fields)


def comparison(
    other: str, state: str, measure: str, *, ours: str = "bat", **fields: Any
) -> Contrast:
    """Returns the contrast of a run of BAT and another method."""
    return Contrast("c", f"{ours} minus {other}, {state}", measure, **fields)


def is_adversarial(row: Mapping[str, Any]) -> bool:
    """Returns whether a row of `methods` compares with a run that trained on adversarial images.

    Results of older versions do not say so; there, the name of the arm is that of its method.
    """
    return bool(row.get("adversarial", has_attack(row["against"])))


def tested(summary: Mapping[str, Any]) -> str:
    """Returns what the tested images are: `test images`, or held-out training images.

    Results of older versions do not say so; those that we have are of test images.
    """
    return kind_of_tested(summary.get("tested", 0))


def beyond(attack: str) -> str:
    """Returns the measure of a clean gain minus a robust one."""
    return f"clean minus {attack}"


def _gains(summary: Mapping[str, Any]) -> list[Contrast]:
    gains = summary["gains"].get("pgd_at", {}).get("atypical")
    if gains is None:
        return []
    attack = Measure.parse(summary["attacks"]["tracked"]).title
    images = summary["curves"]["pgd_at"]["test_atypical"]["images"]
    return [
        gain(
            measure,
            tested=tested(summary),
            images=images,
            values=_values(gains[key]),
            arms=("pgd_at",),
        )
        for key, measure in ((CLEAN.key, CLEAN.title), ("clean_minus_robust", beyond(attack)))
    ]


def _removals(summary: Mapping[str, Any]) -> list[Contrast]:
    found = []
    for row in (*summary["removal"], *summary.get("harmful", ())):
        state, key = row["state"], summary["attacks"]["removal"][row["state"]]
        if "typical" in row:
            typical = summary["accuracies"]["pgd_at"][state]["typical"][key]
            found.append(
                removal(
                    Removal.of(row),
                    state,
                    Measure.parse(key).title,
                    tested=tested(summary),
                    images=typical["images"],
                    values=_values(row["typical"][key]),
                )
            )
    return found


def _comparisons(summary: Mapping[str, Any]) -> list[Contrast]:
    found = []
    for row in summary["methods"]:
        state, other, ours = row["state"], row["against"], row.get("ours", "bat")
        if not is_adversarial(row):
            continue
        for key in (CLEAN.key, summary["attacks"]["methods"][state]):
            tests = row[key].get("mcnemar", ())
            discordant = None
            if tests:
                changed = sum(test["only_first"] + test["only_second"] for test in tests)
                discordant = changed / sum(test["images"] for test in tests)
            found.append(
                comparison(
                    other,
                    state,
                    Measure.parse(key).title,
                    ours=ours,
                    images=summary["accuracies"][ours][state]["all"][key]["images"],
                    values=_values(row[key]),
                    discordant=discordant,
                    arms=(ours, other),
                )
            )
    return found


def _values(value: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(value["values"])
