"""Verdicts on each finding, by rules that are the same for every data set."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from bat_jax.evaluation.records import AUTOATTACK, STATES, Measure
from bat_jax.findings import looks, power
from bat_jax.findings.contrasts import is_adversarial, tested
from bat_jax.findings.results import measure_title

Verdict = Literal["supported", "refuted", "undecided"]

# With fewer seeds there is no verdict: two may agree by chance.
FEWEST_SEEDS = 3


class Claim(NamedTuple):
    """A finding and its verdict.

    Attributes:
      name: `regime`, `a`, `b` or `c`, with the evaluated state.
      statement: the finding.
      rule: the conditions that support or refute it.
      verdict: the outcome of the rule.
      numbers: the numbers behind the verdict.
      detectable: for an undecided claim, the true differences that these seeds detect with a
        probability of 80 %; else empty.
      settled: with declared looks, at which one each difference was settled; else empty.
    """

    name: str
    statement: str
    rule: str
    verdict: Verdict
    numbers: str
    detectable: str = ""
    settled: str = ""


def claims(summary: Mapping[str, Any]) -> list[Claim]:
    """Returns the regime check, then (a), (b) and (c); the last two once per state."""
    methods = summary["methods"]
    return [
        _regime(summary["regime"]),
        _a(summary),
        *(_b(summary, row) for row in summary["removal"]),
        *(_harmful(summary, row) for row in summary.get("harmful", ())),
        *(
            _c(summary, state, ours)
            for ours in dict.fromkeys(("bat", *(row.get("ours", "bat") for row in methods)))
            for state in STATES
        ),
    ]


def sign(value: Mapping[str, Any]) -> int:
    """Returns 1 or -1 where the whole 95 % interval lies above or below 0; else 0.

    With fewer than `FEWEST_SEEDS` seeds it is 0. With declared looks, it is the sign that they
    settled.
    """
    if "looks" in value:
        return looks.settled(value).sign
    if value["n"] < FEWEST_SEEDS:
        return 0
    low, high = value["interval"]
    return int(low > 0) - int(high < 0)


def points(value: Mapping[str, Any], *, seeds: bool = True) -> str:
    """Returns a difference of accuracies in points: `+1.2 (+0.3 to +2.1; 3 seeds)`."""
    return _in_percent(value, "+.1f", seeds=seeds)


def detectable(values: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the differences in points that measured ones detect: `clean 2.3, PGD-20 3.1`."""
    return ", ".join(
        f"{name} {100 * (power.of_difference(value) or 0):.1f}" for name, value in values.items()
    )


def over(value: Mapping[str, Any]) -> str:
    """Returns an accuracy over seeds in percent: `75.3 (74.0 to 76.6; 3 seeds)`."""
    return _in_percent(value, ".1f")


def counted(seeds: int) -> str:
    """Returns a number of seeds with its noun: `1 seed`, `3 seeds`."""
    return f"{seeds} seed" + ("s" if seeds > 1 else "")


def _in_percent(value: Mapping[str, Any], form: str, *, seeds: bool = True) -> str:
    mean = format(100 * value["mean"], form)
    ends = [format(100 * end, form) for end in value.get("interval", ())]
    parts = [" to ".join(ends) or "no interval"]
    if seeds:
        parts.append(counted(value["n"]))
    return f"{mean} ({'; '.join(parts)})"


def _regime(regime: Mapping[str, Any]) -> Claim:
    attack = Measure.parse(regime["attack"]).title
    return Claim(
        "regime",
        "Adversarial training fits its training images and leaves a gap to the test set, so that"
        " memorization can occur.",
        f"Supported if pgd_at classifies at least {100 * regime['bound']:.0f} % of its training"
        f" images correctly under {attack} at its end and the interval of training minus test lies"
        " above 0; refuted if not.",
        "supported" if regime["holds"] else "refuted",
        f"Under {attack}: training {over(regime['train'])} %, test {over(regime['test'])} %, gap"
        f" {points(regime['gap'])} points.",
    )


def _a(summary: Mapping[str, Any]) -> Claim:
    gains, attack = summary["gains"]["pgd_at"], summary["attacks"]["tracked"]
    images = f"atypical {tested(summary)}"
    statement = (
        "(a) Memorizing atypical training samples raises clean accuracy on atypical test samples"
        " but hardly their robust accuracy."
    )
    rule = (
        "Gains of pgd_at from the record where its accuracy on atypical training images is half of"
        " the way from the first to the last value, to the last record. Supported if the interval"
        f" of the clean gain on {images} and that of the clean gain minus the robust one"
        " both lie above 0; refuted if one lies below 0; else undecided."
    )
    atypical = gains.get("atypical")
    if atypical is None:
        return Claim("a", statement, rule, "undecided", f"No {images} were tracked.")
    title = Measure.parse(attack).title
    clean, beyond = atypical["clean"], atypical["clean_minus_robust"]
    verdict = _verdict([sign(clean), sign(beyond)])
    return Claim(
        "a",
        statement,
        rule,
        verdict,
        f"From epoch {gains['from_epoch']:g} to {gains['to_epoch']:g}: clean {points(clean)},"
        f" {title} {points(atypical[attack])}, clean minus {title}"
        f" {points(beyond)} points.",
        **_looked(verdict, {"clean": clean, f"clean minus {title}": beyond}),
    )


def _b(summary: Mapping[str, Any], row: Mapping[str, Any]) -> Claim:
    title = Measure.parse(summary["attacks"]["removal"][row["state"]]).title
    part, state = f"{100 * row['part']:g} %", row["state"]
    name = f"b, {part} removed, {state}"
    statement = (
        f"(b) Fitting atypical samples in adversarial training hurts typical ones ({part} of them"
        f" removed, {state} checkpoint)."
    )
    rule = (
        f"Difference of robust accuracy ({title}) on typical {tested(summary)}: without the"
        " atypical training images minus without equally many random ones. Supported if its"
        " interval lies above 0, refuted if below, else undecided."
    )
    return _of_removal(name, statement, rule, summary, row)


def _harmful(summary: Mapping[str, Any], row: Mapping[str, Any]) -> Claim:
    title = Measure.parse(summary["attacks"]["removal"][row["state"]]).title
    part, state = f"{100 * row['part']:g} %", row["state"]
    is_random = row["against"] == "balanced"
    others = "random" if is_random else "merely atypical"
    about = f"as many as {part} of the atypical ones, {state} checkpoint"
    statement = (
        f"(b) Images with a harmful influence under attack hurt typical ones ({about})."
        if is_random
        else f"(b) Harmful images hurt typical ones more than merely atypical images do ({about})."
    )
    rule = (
        f"Difference of robust accuracy ({title}) on typical {tested(summary)}, none of which"
        " chose the harmful ones: without the harmful training images minus without equally many"
        f" {others} ones of the same classes. Supported if its interval lies above 0, refuted if"
        " below, else undecided."
    )
    return _of_removal(f"b, {part} harmful, {others}, {state}", statement, rule, summary, row)


def _of_removal(
    name: str, statement: str, rule: str, summary: Mapping[str, Any], row: Mapping[str, Any]
) -> Claim:
    """Returns the claim that a removal raises robust accuracy on typical test images."""
    attack = summary["attacks"]["removal"][row["state"]]
    title = measure_title(summary, attack)
    if "typical" not in row:
        return Claim(name, statement, rule, "undecided", f"No typical {tested(summary)} are known.")
    robust = row["typical"][attack]
    verdict = _verdict([sign(robust)])
    return Claim(
        name,
        statement,
        rule,
        verdict,
        f"{row['removed']} images removed: {title} {points(robust)}, clean"
        f" {points(row['typical']['clean'])} points on typical {tested(summary)}.",
        **_looked(verdict, {title: robust}),
    )


def _c(summary: Mapping[str, Any], state: str, ours: str) -> Claim:
    attack = summary["attacks"]["methods"][state]
    title = measure_title(summary, attack)
    rows = [
        row
        for row in summary["methods"]
        if row["state"] == state and row.get("ours", "bat") == ours
    ]
    rows = [row for row in rows if is_adversarial(row)]
    signs = {row["against"]: (sign(row["clean"]), sign(row[attack])) for row in rows}
    better = [name for name, found in signs.items() if max(found) > 0 and min(found) >= 0]
    worse = [name for name, found in signs.items() if min(found) < 0 and max(found) <= 0]
    moved = [name for name, found in signs.items() if max(found) > 0 and min(found) < 0]
    unknown = [name for name, found in signs.items() if found == (0, 0)]
    verdict: Verdict = "undecided"
    if signs and len(better) == len(signs):
        verdict = "supported"
    elif worse:
        verdict = "refuted"
    parts = [
        f"{text}: {', '.join(names)}"
        for text, names in (
            ("better than", better),
            ("worse than", worse),
            ("one accuracy up, the other down, against", moved),
            ("no significant difference from", unknown),
        )
        if names
    ]
    numbers = "; ".join(
        f"{row['against']}: clean {points(row['clean'])}, {title} {points(row[attack])}"
        for row in rows
    )
    caution = "" if attack == AUTOATTACK.key else " Robustness was not tested with AutoAttack."
    is_plain = ours == "bat"
    return Claim(
        f"c, {state}" if is_plain else f"c, {ours}, {state}",
        f"(c) {'BAT' if is_plain else ours} gives a better trade-off between clean and robust"
        f" accuracy than every adversarial method that it is compared with ({state} checkpoint).",
        "BAT is better than a method if the interval of one paired difference over seeds, of clean"
        f" or of robust accuracy ({Measure.parse(attack).title}), lies above 0 and that of the"
        " other not below 0."
        " Supported if BAT is better than each method; refuted if worse than one; else undecided.",
        verdict,
        f"{_sentence('; '.join(parts))}. {'BAT' if is_plain else ours} minus {numbers}"
        f" points.{caution}",
        **_looked(
            verdict,
            {
                f"{row['against']} {name}": row[key]
                for row in rows
                for name, key in (("clean", "clean"), (title, attack))
            },
        ),
    )


def _sentence(text: str) -> str:
    """Returns a text with a capital first letter, and names of arms as they are."""
    return text[:1].upper() + text[1:]


def _looked(verdict: Verdict, values: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns what the differences of an undecided claim detect, and when each was settled."""
    found = {}
    unknown = {name: value for name, value in values.items() if not sign(value)}
    if verdict == "undecided" and unknown:
        has_interval = all("interval" in value for value in unknown.values())
        found["detectable"] = (
            f"{detectable(unknown)} points" if has_interval else "nothing with one seed"
        )
    by_look: dict[str, list[str]] = {}
    for name, value in values.items():
        if "looks" in value:
            by_look.setdefault(str(looks.settled(value)), []).append(name)
    if by_look:
        found["settled"] = "; ".join(f"{', '.join(names)} {s}" for s, names in by_look.items())
    return found


def _verdict(signs: list[int]) -> Verdict:
    if all(found > 0 for found in signs):
        return "supported"
    return "refuted" if min(signs) < 0 else "undecided"
