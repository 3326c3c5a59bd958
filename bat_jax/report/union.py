"""The union over norms: `python -m bat_jax.report.union EVALUATION EVALUATION ...`.

Takes evaluations of one run under different norms or epsilons, such as `runs/NAME` itself and
`runs/NAME/evaluation-l2-0.5`, and counts a test image as robust only if it withstands the strongest
attack of each. Leaves out a checkpoint that not all of them attacked. Writes `report.html`,
`figures/`, `union.json`, and `union.npz` with a verdict per image, into `union` or --output. Exit
status: 0 done, 1 a file cannot be read or written, 2 a wrong input.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from bat_jax.errors import UserError
from bat_jax.evaluation import runs
from bat_jax.evaluation.records import AUTOATTACK, CLEAN, EVALUATED, Accuracy
from bat_jax.evaluation.runs import Run
from bat_jax.report.charts import bars
from bat_jax.report.command import finish, output_folder
from bat_jax.report.comparison import different
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Page, Section, Table, write
from bat_jax.report.style import Chart, fitted, point
from bat_jax.runtime.files import write_json, write_npz
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath, as_path

# The sections of the config that evaluations of one run have in common.
_SHARED = ("model", "objective", "train", "seed")


class _Union(NamedTuple):
    """The verdicts on one state.

    Attributes:
      titles: the threats in words, in the order of the evaluations: `Linf 0.03137, AutoAttack`.
      clean: whether each image is classified correctly.
      robust: whether it withstands each threat, in the order of the evaluations.
    """

    titles: tuple[str, ...]
    clean: Bool[np.ndarray, " images"]
    robust: Bool[np.ndarray, "threats images"]

    @property
    def union(self) -> Bool[np.ndarray, " images"]:
        """Whether each image withstands all threats."""
        return np.all(self.robust, axis=0)

    def only(self, number: int) -> int:
        """Returns how many images one threat alone breaks."""
        others = np.delete(self.robust, number, axis=0).all(axis=0)
        return int((others & ~self.robust[number]).sum())


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and prints its path."""
    parser = Parser("python -m bat_jax.report.union", description=__doc__)
    parser.add_argument(
        "evaluations", nargs="+", metavar="EVALUATION", help="the folder of a run or an evaluation"
    )
    parser.add_argument("--output", default="union", help="the page's folder")
    options = parser.parse_args(arguments)
    return finish(parser, lambda: union(options.evaluations, options.output), options.output)


def union(folders: Sequence[str | AnyPath], output: str | AnyPath) -> AnyPath:
    """Writes the accuracy of one run under all threats together; returns the page's path.

    Args:
      folders: of finished evaluations of the run, two or more.
      output: the folder to write to.

    Raises:
      UserError: fewer than two evaluations, one twice, or evaluations of other weights or images,
        of a sample, or without a checkpoint that all of them attacked.
    """
    folder = output_folder(output)
    if len(folders) < 2:
        raise UserError(f"union: got {len(folders)} evaluation(s); expected two or more")
    places = [as_path(folder) for folder in folders]
    different(places)
    found = [runs.read(place) for place in places]
    states = _common(found)
    if not states:
        raise UserError(
            f"{places[0]} and {places[1]}: have no evaluated checkpoint in common; expected"
            " evaluations of one run"
        )
    for one in found[1:]:
        _check_same(found[0], one, states)
    unions = {
        state: _of(found, state)
        for state in states
        if all(one.evaluations[state].attack.is_attack for one in found)
    }
    if not unions:
        raise UserError(
            f"{' and '.join(map(str, places))}: have no attacked checkpoint in common; expected"
            " one: name attacks in config.evaluation.attacks and repeat the evaluations without"
        )
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: found[0].examples[name] for name in ("ids", "labels")}
    for state, united in unions.items():
        arrays |= {
            f"{state}_clean": united.clean,
            f"{state}_robust": united.robust,
            f"{state}_union": united.union,
        }
    write_npz(folder / "union.npz", arrays)
    write_json(folder / "union.json", {state: _content(each) for state, each in unions.items()})
    return write(_page(found, unions), folder)


def _common(found: Sequence[Run]) -> list[str]:
    """Returns the states that all runs evaluated."""
    return [state for state in EVALUATED if all(state in one.states for one in found)]


def _check_same(first: Run, other: Run, states: Sequence[str]) -> None:
    """Raises UserError if two evaluations are not of the same weights on the same images."""
    for section in _SHARED:
        if other.config.get(section) != first.config.get(section):
            raise UserError(
                f"{other.folder}: its config.{section} differs from that of {first.folder};"
                " expected evaluations of one run"
            )
    for split in ("train", "test"):
        if other.about["data"].get(split) != first.about["data"].get(split):
            raise UserError(
                f"{other.folder}: has other {split} images than {first.folder}; expected"
                " evaluations of one run"
            )
    if not np.array_equal(other.examples["ids"], first.examples["ids"]):
        raise UserError(
            f"{other.folder}: has {len(other.examples['ids']):,} test images, other ones than the"
            f" {len(first.examples['ids']):,} of {first.folder}; expected the same"
            " evaluation.subset"
        )
    for state in states:
        name = f"{state}_{CLEAN.key}"
        differ = int((other.examples[name] != first.examples[name]).sum())
        if differ:
            raise UserError(
                f"{other.folder}: {differ} of its clean verdicts differ from those of"
                f" {first.folder}; expected evaluations of the same weights"
            )


def _threat(run: Run, state: str) -> str:
    """Returns the threat to a state in words: `Linf 0.03137, AutoAttack`."""
    measure = run.evaluations[state].attack
    if run.evaluations[state].sample is not None and measure == AUTOATTACK:
        raise UserError(
            f"{run.folder}: its last attacks were run on a sample; expected all images: repeat its"
            " evaluation without a tolerance, which continues it"
        )
    attack = run.config["attack"]
    return f"{attack['norm'].capitalize()} {attack['epsilon']:.4g}, {measure.title}"


def _of(found: Sequence[Run], state: str) -> _Union:
    titles = [_threat(one, state) for one in found]
    for number, title in enumerate(titles):
        if title in titles[:number]:
            raise UserError(
                f"{found[number].folder}: its attack is {title}, as in"
                f" {found[titles.index(title)].folder}; expected another norm or epsilon"
            )
    clean = found[0].examples[f"{state}_{CLEAN.key}"]
    robust = [one.examples[f"{state}_{one.evaluations[state].attack.key}"] for one in found]
    return _Union(tuple(titles), clean, np.stack(robust) & clean)


def _accuracies(found: _Union) -> dict[str, Accuracy]:
    rows = {"clean": found.clean, **dict(zip(found.titles, found.robust, strict=True))}
    return {name: Accuracy.of(row) for name, row in {**rows, "union": found.union}.items()}


def _content(found: _Union) -> Mapping[str, object]:
    accuracies = {name: one.to_json() for name, one in _accuracies(found).items()}
    only = {title: found.only(number) for number, title in enumerate(found.titles)}
    return {
        "clean": accuracies.pop("clean"),
        "union": accuracies.pop("union"),
        "by": accuracies,
        "broken_by_one_alone": only,
    }


def _page(found: Sequence[Run], unions: Mapping[str, _Union]) -> Page:
    accuracies = {state: _accuracies(one) for state, one in unions.items()}
    rows = []
    for state, by in accuracies.items():
        titles = unions[state].titles
        for name, one in by.items():
            only = str(unions[state].only(titles.index(name))) if name in titles else ""
            rows.append((f"{state}, {name}", one.percent, one.interval_in_percent, only))
    state = next(iter(unions))
    titles = unions[state].titles
    text = [
        f"Without the {other} checkpoint, which not every evaluation attacked."
        for other in _common(found)
        if other not in unions
    ]
    if any(one.evaluations[state].attack != AUTOATTACK for one in found for state in unions):
        text.append(
            "Not every threat is AutoAttack: robust accuracy under other attacks does not establish"
            " robustness."
        )
    return Page(
        title=f"Union over norms: {found[0].name}",
        summary=f"The {state} checkpoint withstands all of {'; '.join(titles)} on"
        f" {accuracies[state]['union'].percent} % of the test images"
        f" (n = {len(unions[state].clean):,}, 95 % interval"
        f" {accuracies[state]['union'].interval_in_percent}).",
        facts={title: str(one.folder) for title, one in zip(titles, found, strict=True)},
        sections=(
            Section(
                "Accuracy under each threat and under all",
                tuple(text),
                (
                    Table(
                        "Accuracy in percent; 95 % Wilson intervals. Alone: images that this threat"
                        " breaks and no other.",
                        ("checkpoint, threat", "%", "95 % interval", "alone"),
                        tuple(rows),
                    ),
                ),
                (_chart(state, accuracies[state]),),
            ),
        ),
        details={},
    )


def _chart(state: str, accuracies: Mapping[str, Accuracy]) -> Chart:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, one in enumerate(accuracies.values()):
            axes.errorbar(
                100 * one.accuracy,
                number,
                xerr=bars(one),
                **point(number),
                capsize=2,
                linestyle="none",
            )
        ticks = [fitted(name, inches=1.6, size=9.0, lines=2) for name in accuracies]
        axes.set_yticks(range(len(ticks)), ticks)
        axes.set(xlabel="accuracy (%)", xlim=(-1, 101), ylim=(len(ticks) - 0.5, -0.5))

    numbers = "; ".join(f"{name}: {one}" for name, one in accuracies.items())
    return Chart(
        "union",
        "Accuracy under each threat and under all",
        f"Dot plot of accuracy in percent. {numbers}.",
        f"Checkpoint: {state}. Bars are 95 % Wilson intervals.",
        draw,
        height=1.4 + 0.35 * len(accuracies),
    )


if __name__ == "__main__":
    sys.exit(main())
