"""Measures and accuracies of an evaluation: the content of results.json."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from scipy import stats

from bat_jax.attacks.versions import STANDARD
from bat_jax.evaluation.sampled import Sampled, SampleRecord

# The evaluated checkpoints: the best on the validation images, and the last.
STATES = ("best", "last")
# What is evaluated in place of a run's checkpoints: the weights of a file.
WEIGHTS = "weights"
EVALUATED = (*STATES, WEIGHTS)
# Test images by memorization, besides `ALL`.
GROUPS = ("typical", "atypical")
ALL = ""

_PGD = re.compile(r"pgd(0|[1-9]\d{0,9})(?:_(.+))?")


class Measure(NamedTuple):
    """A way to measure accuracy: on clean images or under an attack.

    Attributes:
      kind: without an attack, under PGD, or the worst case over AutoAttack's attacks.
      steps: of PGD.
      loss: the loss that PGD maximises.
    """

    kind: Literal["clean", "pgd", "autoattack"]
    steps: int = 0
    loss: str = "cross_entropy"

    @classmethod
    def pgd(cls, steps: int, loss: str = "cross_entropy") -> "Measure":
        """Returns the measure of accuracy under PGD with the given steps and loss."""
        return cls("pgd", steps, loss)

    @classmethod
    def parse(cls, key: str) -> "Measure":
        """Parses the name of a measure in results.json.

        Raises:
          ValueError: the key names no measure.
        """
        for measure in (CLEAN, AUTOATTACK):
            if key == measure.key:
                return measure
        found = _PGD.fullmatch(key)
        if found is None or found[2] == "cross_entropy":
            raise ValueError(
                f"{key!r} is not a measure; expected clean, autoattack, or PGD's steps and loss,"
                " such as pgd20 or pgd20_margin"
            )
        return cls.pgd(int(found[1]), found[2] or "cross_entropy")

    @classmethod
    def is_key(cls, key: str) -> bool:
        """Returns whether `key` names a measure."""
        try:
            cls.parse(key)
        except ValueError:
            return False
        return True

    @property
    def key(self) -> str:
        """The name in results.json, metrics.jsonl and examples.npz: `pgd20_margin`."""
        if self.kind != "pgd":
            return self.kind
        return f"pgd{self.steps}" + ("" if self.loss == "cross_entropy" else f"_{self.loss}")

    @property
    def title(self) -> str:
        """The name on a page: `PGD-20 (margin)`."""
        if self.kind == "pgd":
            loss = "" if self.loss == "cross_entropy" else f" ({self.loss})"
            return f"PGD-{self.steps}{loss}"
        return {"clean": "clean", "autoattack": "AutoAttack"}[self.kind]

    @property
    def is_attack(self) -> bool:
        """Whether the images are attacked."""
        return self.kind != "clean"


CLEAN = Measure("clean")
AUTOATTACK = Measure("autoattack")


class Accuracy(NamedTuple):
    """An accuracy with the number of images and Wilson's 95 % interval.

    Attributes:
      accuracy: from 0 to 1.
      n: the number of images.
      interval: its ends, from 0 to 1.
    """

    accuracy: float
    n: int
    interval: tuple[float, float]

    @classmethod
    def of(cls, correct: Bool[np.ndarray, " images"]) -> "Accuracy":
        """Returns the accuracy of verdicts, whether each image is classified correctly."""
        hits, n = int(np.sum(correct)), len(correct)
        return cls(hits / n, n, _wilson(hits / n, n))

    @classmethod
    def of_sampled(cls, sampled: Sampled, rows: Any) -> "Accuracy":
        """Returns the estimated accuracy of verdicts some of which are not known.

        The interval covers the images that not all attacks were run on, and the choice of the test
        images, each with half of the 5 %: Wilson's for the least and the most that would stand.

        Args:
          sampled: the verdicts on all images.
          rows: the images to consider, as an index.
        """
        n = len(sampled.stands[rows])
        standing = sampled.standing(rows, 0.975)
        low, _ = _wilson(standing.low / n, n, confidence=0.975)
        _, high = _wilson(standing.high / n, n, confidence=0.975)
        return cls(standing.estimate / n, n, (low, high))

    @classmethod
    def of_shares(cls, correct: Bool[np.ndarray, "images versions"]) -> "Accuracy":
        """Returns the mean accuracy on several versions of each image.

        The versions of an image are no independent images. The interval is Wilson's for as many
        images as would give the mean p the variance that the images' shares of correct versions
        have: n p (1 - p) / var, from n (all versions agree) to n times the versions (as if
        independent). See Korn & Graubard, Survey Methodology 24 (1998).

        Args:
          correct: whether each version is classified correctly.
        """
        n, versions = correct.shape
        shares = correct.mean(axis=1)
        accuracy = float(shares.mean())
        spread = accuracy * (1 - accuracy)
        times = 1.0
        if n > 1 and spread:
            times = min(max(spread / max(float(shares.var(ddof=1)), 1e-12), 1.0), float(versions))
        return cls(accuracy, n, _wilson(accuracy, n * times))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Accuracy":
        """Reads an accuracy in the format of results.json."""
        low, high = content["interval"]
        return cls(float(content["accuracy"]), int(content["n"]), (float(low), float(high)))

    def to_json(self) -> dict[str, Any]:
        """Returns the accuracy in the format of results.json."""
        return {"accuracy": self.accuracy, "n": self.n, "interval": list(self.interval)}

    @property
    def percent(self) -> str:
        """The accuracy in percent: `75.3`."""
        return percent(self.accuracy)

    @property
    def interval_in_percent(self) -> str:
        """The interval in percent: `71.1 to 79.0`."""
        return " to ".join(map(percent, self.interval))

    def __str__(self) -> str:
        """The accuracy with its interval in percent: `75.3 (71.1 to 79.0)`."""
        return f"{self.percent} ({self.interval_in_percent})"


Accuracies = Mapping[Measure, Accuracy]
_MEAN = "mean"


class OnCorrupted(NamedTuple):
    """The accuracies of one state on corrupted test images.

    Attributes:
      mean: over all corruptions and severities.
      by: by corruption, the accuracy at each severity, `1` to `5`, and their `mean`.
    """

    mean: Accuracy
    by: Mapping[str, Mapping[str, Accuracy]]

    @classmethod
    def of(cls, verdicts: Mapping[str, Bool[np.ndarray, "images severities"]]) -> "OnCorrupted":
        """Returns the accuracies of verdicts by corruption.

        All corruptions have the same images. Intervals of means are therefore those of a mean over
        images of each image's share of correct versions (`Accuracy.of_shares`): they cover the
        choice of the images, not that of the corruptions.
        """
        everything = np.concatenate(list(verdicts.values()), axis=1)
        by = {
            name: {
                _MEAN: Accuracy.of_shares(found),
                **{str(place + 1): Accuracy.of(row) for place, row in enumerate(found.T)},
            }
            for name, found in verdicts.items()
        }
        return cls(Accuracy.of_shares(everything), by)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "OnCorrupted":
        """Reads the accuracies in the format of results.json."""
        by = {
            name: {key: Accuracy.from_json(value) for key, value in found.items()}
            for name, found in content["by"].items()
        }
        return cls(Accuracy.from_json(content[_MEAN]), by)

    def to_json(self) -> dict[str, Any]:
        """Returns the accuracies in the format of results.json."""
        by = {
            name: {key: value.to_json() for key, value in found.items()}
            for name, found in self.by.items()
        }
        return {_MEAN: self.mean.to_json(), "by": by}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The accuracies of one state on the test set.

    Attributes:
      groups: by group of images, `ALL` first; empty groups are absent.
      broken_by: how many images each attack of AutoAttack broke in turn, if it was run.
      by: the accuracies of every `class` and `superclass` by its name, if they were recorded.
      sample: of AutoAttack, if its last attacks were run on a sample; then its accuracies are
        estimates.
      corrupted: the accuracies on corrupted test images, if there were any.
    """

    groups: Mapping[str, Accuracies]
    broken_by: Mapping[str, int] = dataclasses.field(default_factory=dict)
    by: Mapping[str, Mapping[str, Accuracies]] = dataclasses.field(default_factory=dict)
    sample: SampleRecord | None = None
    corrupted: OnCorrupted | None = None

    @property
    def all(self) -> Accuracies:
        """The accuracies on all test images."""
        return self.groups[ALL]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Evaluation":
        """Reads the evaluation of one state in the format of results.json."""
        test = content["test"]
        plain = {ALL: {name: test[name] for name in test if name not in GROUPS}}
        plain |= {group: test[group] for group in GROUPS if group in test}
        by = {kind: _groups(found) for kind, found in content.get("by", {}).items()}
        sample = SampleRecord.from_json(content["sample"]) if "sample" in content else None
        corrupted = None
        if "corruptions" in content:
            corrupted = OnCorrupted.from_json(content["corruptions"])
        return cls(_groups(plain), dict(content.get("broken_by", {})), by, sample, corrupted)

    @property
    def attack(self) -> Measure:
        """The strongest attack: AutoAttack, a PGD, or `CLEAN` for none."""
        return strongest(tuple(self.all))

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks of AutoAttack that were run, in order; none if the results name none."""
        return tuple(self.broken_by)

    def title(self, measure: Measure) -> str:
        """Returns a measure's title, which names attacks other than the standard ones."""
        return measure.title + self.note(measure)

    def note(self, measure: Measure) -> str:
        """Returns what to add to a measure's title: its attacks, or that it is an estimate."""
        attacks = self.attacks if measure == AUTOATTACK else ()
        return noted(attacks, is_sampled=self.is_estimate(measure))

    def is_estimate(self, measure: Measure) -> bool:
        """Returns whether not every image has a verdict under a measure."""
        return self.sample is not None and measure == AUTOATTACK


def is_standard(attacks: Sequence[str]) -> bool:
    """Returns whether AutoAttack ran at least its standard attacks; assumed of no names."""
    return not attacks or set(STANDARD) <= set(attacks)


def noted(attacks: Sequence[str], *, is_sampled: bool) -> str:
    """Returns what to add to AutoAttack's title: ` (apgd-ce; sampled)`, or nothing.

    Args:
      attacks: that were run; none if they are not known.
      is_sampled: whether the last of them were run on a sample of the images.
    """
    words = [] if is_standard(attacks) else [", ".join(attacks)]
    words += ["sampled"] if is_sampled else []
    return f" ({'; '.join(words)})" if words else ""


def _groups(content: Mapping[str, Any]) -> dict[str, Accuracies]:
    """Reads accuracies by group and measure."""
    return {
        group: {Measure.parse(key): Accuracy.from_json(value) for key, value in found.items()}
        for group, found in content.items()
    }


def evaluations(results: Mapping[str, Any]) -> dict[str, Evaluation]:
    """Returns the evaluations in results.json by state, `best` first."""
    return {state: Evaluation.from_json(results[state]) for state in EVALUATED if state in results}


# Whether each image is classified correctly, as far as it is known.
Verdict = Bool[np.ndarray, " images"] | Sampled


def summarize(
    verdicts: Mapping[str, Verdict],
    groups: Mapping[str, Int64[np.ndarray, " rows"]],
) -> dict[str, Any]:
    """Returns accuracies on all images and on each non-empty group, in results.json's format.

    Args:
      verdicts: by measure key, whether each image is classified correctly.
      groups: rows by group, such as the typical and the atypical images.
    """
    return {**_accuracies(verdicts, slice(None)), **summarize_groups(verdicts, groups)}


def summarize_groups(
    verdicts: Mapping[str, Verdict],
    groups: Mapping[str, Int64[np.ndarray, " rows"]],
) -> dict[str, Any]:
    """Returns the accuracies on each non-empty group alone, as `summarize` does."""
    return {group: _accuracies(verdicts, rows) for group, rows in groups.items() if len(rows)}


def _accuracies(verdicts: Mapping[str, Verdict], rows: Any) -> dict[str, Any]:
    return {key: _accuracy(verdict, rows).to_json() for key, verdict in verdicts.items()}


def _accuracy(verdict: Verdict, rows: Any) -> Accuracy:
    if isinstance(verdict, Sampled):
        return Accuracy.of_sampled(verdict, rows)
    return Accuracy.of(verdict[rows])


def table(results: Mapping[str, Any]) -> str:
    """Formats the content of results.json as a table."""
    lines = [f"{'':<34}{'n':>7}  {'accuracy':>9}  95 % interval"]
    for state, found in evaluations(results).items():
        for group, accuracies in found.groups.items():
            for measure, value in accuracies.items():
                # A line below names the attacks.
                note = noted((), is_sampled=found.is_estimate(measure))
                title = f"{state} {measure.key}{note}"
                lines.append(_line(title + (f", {group}" if group else ""), value))
        if found.corrupted:
            lines.append(_line(f"{state} corruptions, mean", found.corrupted.mean))
            lines += [
                _line(f"{state} {name}", by[_MEAN]) for name, by in found.corrupted.by.items()
            ]
        if found.broken_by:
            counts = ", ".join(f"{attack} {count}" for attack, count in found.broken_by.items())
            lines.append(f"{state}: images broken by {counts}")
        if found.sample:
            lines.append(f"{state}: {found.sample}")
    return "\n".join(lines)


def _line(title: str, value: Accuracy) -> str:
    low, high = value.interval
    return (
        f"{title:<34}{value.n:>7}  {100 * value.accuracy:>7.2f} %  "
        f"{100 * low:.2f} to {100 * high:.2f}"
    )


def strongest(measures: Sequence[Measure]) -> Measure:
    """Returns AutoAttack if it is among the measures, else the first PGD, else `CLEAN`."""
    for kind in ("autoattack", "pgd"):
        for measure in measures:
            if measure.kind == kind:
                return measure
    return CLEAN


def _wilson(accuracy: float, n: int | float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the ends of Wilson's interval for n images, possibly a fraction."""
    z2 = float(stats.norm.ppf((1 + confidence) / 2)) ** 2
    center = (accuracy + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (accuracy * (1 - accuracy) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return round(max(center - half, 0.0), 6), round(min(center + half, 1.0), 6)


def kind_of_tested(tested: int) -> str:
    """Returns what the images of an evaluation are, by `config.data.tested`."""
    return "held-out training images" if tested else "test images"


def percent(value: float) -> str:
    """Formats a fraction in percent with one decimal."""
    return f"{100 * value:.1f}"
