"""Measures how well attacks on one run fool the others.

    python -m bat_jax.report.transfer RUN RUN ...

Attacks the best state of every run by PGD and classifies the images by all runs. Writes
`report.html`, `figures/`, `transfer.json`, and `transfer.npz` with a verdict per image, into
`transfer`. --output names another folder; --images sets the number of test images, by default that
of the first run's own test. Exit status: 0 done, 1 a file cannot be read or written or memory runs
out, 2 wrong input, 130 stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict
from tqdm import tqdm

from bat_jax.errors import UserError
from bat_jax.evaluation.classify import evaluation_attack
from bat_jax.evaluation.records import Accuracy, Measure
from bat_jax.evaluation.transfer import Trained, transfer
from bat_jax.report.command import finish, output_folder
from bat_jax.report.comparison import different, names_of
from bat_jax.report.drawing import Figure
from bat_jax.report.page import Page, Section, Table, write
from bat_jax.report.style import Chart, fitted
from bat_jax.runtime.files import write_json, write_npz
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.experiment import Experiment
from bat_jax.training.saved import read_run, read_states

# The fields of the attack, which must be the same in all runs.
_ATTACK = (
    ("attack", "norm"),
    ("attack", "epsilon"),
    ("evaluation", "num_steps"),
    ("evaluation", "step_size"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and prints its path."""
    parser = Parser("python -m bat_jax.report.transfer", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--images", type=int, help="the number of test images")
    parser.add_argument("--output", default="transfer", help="the page's folder")
    options = parser.parse_args(arguments)
    return finish(
        parser,
        lambda: transfers(options.runs, options.output, images=options.images),
        options.output,
    )


def transfers(
    folders: Sequence[str | AnyPath], output: str | AnyPath, *, images: int | None = None
) -> AnyPath:
    """Writes the transfer matrix of runs; returns the page's path.

    Entry (source, target) is the target's accuracy on images made by PGD against the source; an
    image counts only if the target also classifies its clean version correctly. The attack is the
    PGD of the runs' own evaluation, with the seed of the first run.

    Args:
      folders: the runs' folders, two or more.
      output: the folder to write to.
      images: how many test images the first run's seed draws; by default as many as the run was
        tested on, so that its accuracy under attacks on itself equals that in its results.

    Raises:
      UserError: there are fewer than two runs, a run is named twice, test sets or attacks differ,
        or a run has no intact checkpoint.
      CheckpointError: a system error prevented reading one.
    """
    folder = output_folder(output)
    if images is not None and images < 1:
        raise UserError(f"--images is {images}; expected 1 or more")
    if len(folders) < 2:
        raise UserError(f"transfer: got {len(folders)} run(s); expected two or more")
    places = [as_path(folder) for folder in folders]
    different(places)
    names = names_of(places)
    subset = ConfigDict({"evaluation": {"subset": images}})
    runs = [read_run(place, subset) for place in places]
    _check_alike(places, runs)
    config, test = runs[0].config, runs[0].test_images()
    classifiers = [
        Trained(run.evaluated(), read_states(run, place)["best"].state.evaluated)
        for run, place in zip(runs, places, strict=True)
    ]
    settings = evaluation_attack(config, runs[0].programs, "cross_entropy")
    with tqdm(total=len(test), unit="image", disable=None) as bar:
        clean, robust = transfer(
            classifiers,
            test,
            settings,
            seed=config.seed,
            batch_size=min(config.evaluation.batch_size, len(test)),
            progress=bar.update,
        )
    measure = Measure.pgd(settings.num_steps)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"ids": test.ids, "labels": test.labels, "clean": clean, "robust": robust}
    write_npz(folder / "transfer.npz", arrays)
    write_json(folder / "transfer.json", _content(names, measure, clean, robust))
    about = f"{len(test):,} test images of {runs[0].dataset.name}"
    attack = f"{measure.title}, {settings.norm.capitalize()} {settings.epsilon:.4g}"
    return write(_page(names, places, f"{about}; {attack}.", clean, robust), folder)


def _check_alike(places: Sequence[AnyPath], runs: Sequence[Experiment]) -> None:
    """Raises a UserError if the test images or the attack of a run differ from the first run's."""
    first = runs[0]
    for place, run in zip(places[1:], runs[1:], strict=True):
        if run.digests()["test"] != first.digests()["test"]:
            raise UserError(
                f"{place}: was tested on other images ({run.dataset.name}) than {places[0]}"
                f" ({first.dataset.name}); expected runs with one test set"
            )
        for section, field in _ATTACK:
            ours, theirs = run.config[section][field], first.config[section][field]
            if ours != theirs:
                raise UserError(
                    f"{place}: config.{section}.{field} is {ours!r}, and {theirs!r} in"
                    f" {places[0]}; expected runs with one attack"
                )


def _content(
    names: Sequence[str],
    measure: Measure,
    clean: Bool[np.ndarray, "runs images"],
    robust: Bool[np.ndarray, "sources targets images"],
) -> dict[str, Any]:
    def by_target(rows: Bool[np.ndarray, "targets images"]) -> dict[str, Any]:
        return {name: Accuracy.of(row).to_json() for name, row in zip(names, rows, strict=True)}

    matrix = {name: by_target(rows) for name, rows in zip(names, robust, strict=True)}
    return {"clean": by_target(clean), "attack": measure.key, "sources": matrix}


def _page(
    names: Sequence[str],
    places: Sequence[AnyPath],
    about: str,
    clean: Bool[np.ndarray, "runs images"],
    robust: Bool[np.ndarray, "sources targets images"],
) -> Page:
    def row(name: str, verdicts: Bool[np.ndarray, "targets images"]) -> tuple[str, ...]:
        return (name, *(str(Accuracy.of(one)) for one in verdicts))

    rows = [row("none: clean images", clean)]
    rows += [row(name, verdicts) for name, verdicts in zip(names, robust, strict=True)]
    return Page(
        title="Transfer: " + ", ".join(names),
        summary=f"{about} The best checkpoint of every run is attacked, and the images are shown to"
        " all.",
        facts={name: str(place) for name, place in zip(names, places, strict=True)},
        sections=(
            Section(
                "Transfer matrix",
                (
                    "A target that is less robust to images made against another run than to those"
                    " made against itself may mask its gradients: white-box attacks then"
                    " overestimate its robustness.",
                ),
                (
                    Table(
                        "Accuracy in percent of the run in the column on images made against the"
                        f" run in the row; 95 % Wilson intervals, n = {robust.shape[-1]:,}.",
                        ("made against", *names),
                        tuple(rows),
                    ),
                ),
                (_chart(names, robust.mean(axis=-1)),),
            ),
        ),
        details={},
    )


def _chart(names: Sequence[str], accuracies: np.ndarray) -> Chart:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        shown = axes.imshow(100 * accuracies, vmin=0, vmax=100, cmap="cividis", aspect="auto")
        ticks = [fitted(name, inches=1.2, size=9.0, lines=2) for name in names]
        axes.set_xticks(range(len(names)), ticks, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), ticks)
        axes.set(xlabel="target", ylabel="made against")
        for (source, target), value in np.ndenumerate(100 * accuracies):
            # Not white, which is a colour of the theme.
            color = "black" if value > 50 else "#fafafa"
            axes.text(target, source, f"{value:.1f}", ha="center", va="center", color=color)
        figure.colorbar(shown, label="accuracy (%)")

    numbers = "; ".join(
        f"made against {source}, {target} {100 * accuracies[i, j]:.1f}"
        for i, source in enumerate(names)
        for j, target in enumerate(names)
    )
    return Chart(
        "transfer",
        "Accuracy on transferred images",
        f"Matrix of accuracy in percent. {numbers}.",
        "Rows: the run that the images were made against. Columns: the run that classifies them.",
        draw,
        height=1.6 + 0.5 * len(names),
    )


if __name__ == "__main__":
    sys.exit(main())
