"""Measures how well attacks on one run fool the others.

    python -m bat_jax.report.transfer RUN RUN ...

Attacks the best state of every run by PGD and classifies the images by all runs. Writes
`report.html`, `figures/`, `transfer.json`, and `transfer.npz` with a verdict per image, into
`transfer`. --output names another folder; a run's page shows the matrix if that is in the run's
folder. --images sets the number of test images, by default that of the first run's own test. Exit
status: 0 done, 1 a file cannot be read or written or memory runs out, 2 wrong input, 130 stopped by
Ctrl-C.
"""

import sys
from collections.abc import Sequence

from ml_collections import ConfigDict
from tqdm import tqdm

from bat_jax.errors import UserError
from bat_jax.evaluation.classify import evaluation_attack
from bat_jax.evaluation.records import Measure, kind_of_tested
from bat_jax.evaluation.transfer import Trained, transfer
from bat_jax.report import matrices
from bat_jax.report.command import finish, output_folder
from bat_jax.report.comparison import different, names_of
from bat_jax.report.page import Page, write
from bat_jax.runtime import workdir as workdirs
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
    first = read_run(places[0], subset)
    config, test = first.config, first.test_images()
    classifiers = [_classifier(first, places[0])]
    for place in places[1:]:
        # A run's data are dropped before the next is read.
        run = read_run(place, subset)
        _check_alike(places[0], first, place, run)
        classifiers.append(_classifier(run, place))
    settings = evaluation_attack(config, first.programs, "cross_entropy")
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
    matrix = matrices.Matrix.of(names, measure, clean, robust)
    write_json(folder / "transfer.json", matrix.to_json())
    about = f"{len(test):,} {kind_of_tested(config.data.tested)} of {first.dataset.name}"
    attack = f"{measure.title}, {settings.norm.capitalize()} {settings.epsilon:.4g}"
    return write(_page(matrix, places, f"{about}; {attack}."), folder)


def _classifier(run: Experiment, place: AnyPath) -> Trained:
    """Returns the best state of a run."""
    return Trained(run.evaluated(), read_states(run, place)["best"].state.evaluated)


def _check_alike(first_place: AnyPath, first: Experiment, place: AnyPath, run: Experiment) -> None:
    """Raises a UserError if the test images or the attack of a run differ from the first run's."""
    # `read_run` has compared the data with these hashes.
    ours, theirs = (workdirs.read(one / "config.json")[1] for one in (place, first_place))
    if ours["test"] != theirs["test"]:
        raise UserError(
            f"{place}: was tested on other images ({run.dataset.name}) than {first_place}"
            f" ({first.dataset.name}); expected runs with one test set"
        )
    for section, field in _ATTACK:
        here, there = run.config[section][field], first.config[section][field]
        if here != there:
            raise UserError(
                f"{place}: config.{section}.{field} is {here!r}, and {there!r} in"
                f" {first_place}; expected runs with one attack"
            )


def _page(matrix: matrices.Matrix, places: Sequence[AnyPath], about: str) -> Page:
    return Page(
        title="Transfer: " + ", ".join(matrix.names),
        summary=f"{about} The best checkpoint of every run is attacked, and the images are shown to"
        " all.",
        facts={name: str(place) for name, place in zip(matrix.names, places, strict=True)},
        sections=(matrices.section(matrix, "Transfer matrix", chart="transfer"),),
        details={},
    )


if __name__ == "__main__":
    sys.exit(main())
