"""The union over norms: `python -m bat_jax.report.union EVALUATION EVALUATION ...`.

Takes evaluations of one run under different norms or epsilons, such as `runs/NAME` itself and
`runs/NAME/evaluation-l2-0.5`, and counts a test image as robust only if it withstands the strongest
attack of each. Leaves out a checkpoint that not all of them attacked. Writes `report.html`,
`figures/`, `union.json`, and `union.npz` with a verdict per image, into `union` or --output. A
run's page shows the union if that folder is in the run's. Exit status: 0 done, 1 a file cannot be
read or written, 2 a wrong input.
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
from bat_jax.report.charts import tested
from bat_jax.report.command import finish, output_folder
from bat_jax.report.comparison import different
from bat_jax.report.page import Page, write
from bat_jax.report.settings import whole
from bat_jax.report.unions import Union, section
from bat_jax.runtime.files import write_json, write_npz
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath, as_path

# The sections of the config that evaluations of one run have in common.
_SHARED = ("model", "objective", "train", "seed")


class _Verdicts(NamedTuple):
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
    summaries = {state: _summary(united) for state, united in unions.items()}
    content = {state: summary.to_json() for state, summary in summaries.items()}
    write_json(folder / "union.json", content)
    return write(_page(found, summaries), folder)


def _common(found: Sequence[Run]) -> list[str]:
    """Returns the states that all runs evaluated."""
    return [state for state in EVALUATED if all(state in one.states for one in found)]


def _check_same(first: Run, other: Run, states: Sequence[str]) -> None:
    """Raises UserError if two evaluations are not of the same weights on the same images."""
    ours, theirs = whole(other), whole(first)
    for part in _SHARED:
        if ours.get(part) != theirs.get(part):
            raise UserError(
                f"{other.folder}: its config.{part} differs from that of {first.folder};"
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
    title = run.evaluations[state].title(measure)
    return f"{attack['norm'].capitalize()} {attack['epsilon']:.4g}, {title}"


def _of(found: Sequence[Run], state: str) -> _Verdicts:
    titles = [_threat(one, state) for one in found]
    for number, title in enumerate(titles):
        if title in titles[:number]:
            raise UserError(
                f"{found[number].folder}: its attack is {title}, as in"
                f" {found[titles.index(title)].folder}; expected another norm or epsilon"
            )
    clean = found[0].examples[f"{state}_{CLEAN.key}"]
    robust = [one.examples[f"{state}_{one.evaluations[state].attack.key}"] for one in found]
    return _Verdicts(tuple(titles), clean, np.stack(robust) & clean)


def _summary(found: _Verdicts) -> Union:
    """Returns the accuracies behind the verdicts."""
    return Union(
        Accuracy.of(found.clean),
        {title: Accuracy.of(row) for title, row in zip(found.titles, found.robust, strict=True)},
        Accuracy.of(found.union),
        {title: found.only(number) for number, title in enumerate(found.titles)},
    )


def _page(found: Sequence[Run], unions: Mapping[str, Union]) -> Page:
    text = [
        f"Without the {other} checkpoint, which not every evaluation attacked."
        for other in _common(found)
        if other not in unions
    ]
    state, first = next(iter(unions.items()))
    return Page(
        title=f"Union over norms: {found[0].name}",
        summary=f"The {state} checkpoint withstands all of {'; '.join(first.by)} on"
        f" {first.union.percent} % of the {tested(*found)} (n = {first.union.n:,}, 95 % interval"
        f" {first.union.interval_in_percent}).",
        facts={title: str(one.folder) for title, one in zip(first.by, found, strict=True)},
        sections=(
            section(unions, "Accuracy under each threat and under all", text, chart="union"),
        ),
        details={},
    )


if __name__ == "__main__":
    sys.exit(main())
