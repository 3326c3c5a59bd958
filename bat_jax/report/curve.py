"""Robust accuracy of a run against epsilon: `python -m bat_jax.report.curve RUN`.

Brackets the smallest perturbation that breaks each test image by bisection over the radii of
--epsilons, such as 2/255 4/255 8/255; by default, from a quarter of the run's epsilon to twice as
much. --norm names another norm than the run's, --attacks other attacks of AutoAttack than fab-t,
apgd-ce and apgd-t, --state the last checkpoint instead of the best, --images another number of test
images than the run was tested on. Writes `report.html`, `figures/`, `curve.json`, and `curve.npz`
with the bracket of every image, into the run's subfolder `curve-<norm>`, `curve-<norm>-last` for
the last checkpoint, or --output. The same command continues a curve that was stopped. Exit status:
0 done, 1 a file cannot be read or written or memory runs out, 2 a wrong input, 130 stopped by
Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bat_jax import interop, keys, models
from bat_jax.attacks import MinimalNorms, Norm, minimal_norms
from bat_jax.attacks.versions import Name
from bat_jax.data import Split
from bat_jax.errors import UserError
from bat_jax.evaluation.records import STATES, kind_of_tested
from bat_jax.report.command import finish, output_folder
from bat_jax.report.curves import Curve, section
from bat_jax.report.page import Page, write
from bat_jax.runtime.files import write_json, write_npz
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.saved import read_run, read_states

# The default radii, as multiples of the run's epsilon.
_MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_ATTACKS: tuple[Name, ...] = ("fab-t", "apgd-ce", "apgd-t")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and prints its path."""
    parser = Parser("python -m bat_jax.report.curve", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--epsilons", nargs="+", type=_epsilon, help="ascending radii, such as 4/255 8/255"
    )
    parser.add_argument("--norm", choices=get_args(Norm), help="of the radii (default: the run's)")
    parser.add_argument(
        "--attacks", nargs="+", choices=get_args(Name), default=_ATTACKS, help="of AutoAttack"
    )
    parser.add_argument("--state", default="best", choices=STATES, help="the checkpoint")
    parser.add_argument("--images", type=int, help="the number of test images")
    parser.add_argument(
        "--output",
        help="the page's folder (default: curve-<norm> in the run's, curve-<norm>-last for last)",
    )
    options = parser.parse_args(arguments)
    return finish(
        parser,
        lambda: curve(
            options.run,
            options.output,
            epsilons=options.epsilons,
            norm=options.norm,
            attacks=options.attacks,
            state=options.state,
            images=options.images,
        ),
        options.run if options.output is None else options.output,
    )


def curve(
    run: str | AnyPath,
    output: str | AnyPath | None = None,
    *,
    epsilons: Sequence[float] | None = None,
    norm: Norm | None = None,
    attacks: Sequence[Name] = _ATTACKS,
    state: str = "best",
    images: int | None = None,
) -> AnyPath:
    """Writes a run's robust accuracy against epsilon; returns the page's path.

    The draws belong to an image's id and the run's seed, as in the evaluation of the run. The
    brackets are saved to `minimal_norms_<step>.npz` after every batch, and the curve continues
    from there.

    Args:
      run: the run's folder.
      output: the folder to write to; by default, in the run's folder, `curve-<norm>`, or
        `curve-<norm>-last` for the last checkpoint.
      epsilons: the radii, ascending; by default multiples of the run's epsilon.
      norm: `linf`, `l2` or `l1`; the run's by default.
      attacks: of AutoAttack, in order (`bat_jax.attacks.minimal_norms`).
      state: `best` or `last`.
      images: how many test images the run's seed draws; by default those it was tested on.

    Raises:
      UserError: no such run, no intact checkpoint, settings that are not as described, or a folder
        that holds another curve.
      CheckpointError: a system error prevented reading a checkpoint.
    """
    if images is not None and images < 1:
        raise UserError(f"--images is {images}; expected 1 or more")
    place = as_path(run)
    folder = None if output is None else output_folder(output)
    experiment = read_run(place, ConfigDict({"evaluation": {"subset": images}}))
    config, test = experiment.config, experiment.test_images()
    norm = config.attack.norm if norm is None else norm
    if epsilons is None:
        if norm != config.attack.norm:
            raise UserError(
                f"--norm is {norm}, and {config.attack.norm} in {place}; expected radii of that"
                " norm too: give --epsilons"
            )
        epsilons = [multiple * config.attack.epsilon for multiple in _MULTIPLES]
    if folder is None:
        folder = place / (f"curve-{norm}" if state == "best" else f"curve-{norm}-{state}")
    _check_state(folder / "curve.json", state)
    saved = read_states(experiment, place)[state].state
    variables = jax.device_get(saved.evaluated)
    weights, brackets = interop.digest(variables), folder / f"minimal_norms_{int(saved.step)}.npz"
    _check_weights(folder / "curve.json", brackets, weights)
    key = keys.derive(config.seed, keys.Purpose.EVALUATION)
    found = minimal_norms(
        models.logits_fn(experiment.evaluated("autoattack"), variables),
        np.asarray(test.images) / np.float32(255),
        test.labels,
        keys.per_image(key, jnp.asarray(test.ids.astype(np.int32))),
        epsilons=epsilons,
        norm=norm,
        attacks=attacks,
        batch_size=min(config.evaluation.batch_size, len(test)),
        path=brackets,
        keep_adversarial=False,
        progress=sys.stderr.isatty(),
        devices=experiment.mesh.local_devices,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_npz(folder / "curve.npz", _arrays(test, found))
    points = Curve.of(found, state=state, weights=weights, norm=norm, attacks=found.attacks)
    write_json(folder / "curve.json", points.to_json())
    facts = {
        "Run": str(place),
        "Checkpoint": state,
        kind_of_tested(config.data.tested).capitalize(): f"{len(test):,} of"
        f" {experiment.dataset.name}",
        "Norm": norm.capitalize(),
        "Attacks": ", ".join(found.attacks),
    }
    return write(_page(place.resolve().name, facts, found, points), folder)


def _check_state(path: AnyPath, state: str) -> None:
    """Raises UserError if a file holds the curve of another checkpoint."""
    if path.exists() and (other := Curve.read(path).state) != state:
        raise UserError(
            f"{path}: holds the curve of the {other} checkpoint; expected that of the {state}:"
            " name another folder with --output"
        )


def _check_weights(path: AnyPath, brackets: AnyPath, weights: str) -> None:
    """Raises UserError if a folder holds the curve of other weights, finished or not.

    Args:
      path: the folder's curve.json.
      brackets: the file of the brackets of these weights.
      weights: their content hash.
    """
    others = [one for one in path.parent.glob("minimal_norms_*.npz") if one.name != brackets.name]
    found = Curve.read(path).weights if path.exists() else None
    if others or found not in (None, weights):
        raise UserError(
            f"{path.parent}: holds the curve of another run, or of a checkpoint of another step;"
            " expected that of the same weights: name another folder with --output"
        )


def _epsilon(text: str) -> float:
    """Parses a radius: `8/255` or `0.5`."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number or a fraction, such as 8/255"
        ) from None


def _arrays(test: Split, found: MinimalNorms) -> dict[str, np.ndarray]:
    arrays = {
        "ids": test.ids,
        "labels": test.labels,
        "clean": found.clean,
        "epsilons": np.array(found.epsilons),
        "lower": found.lower,
        "upper": found.upper,
    }
    return arrays if found.fab is None else {**arrays, "fab": found.fab}


def _median(found: MinimalNorms) -> float:
    """Returns the median distance of the nearest adversarial image, infinite if half have none."""
    return float(np.quantile(found.upper, 0.5, method="higher"))


def _page(name: str, facts: dict[str, str], found: MinimalNorms, curve: Curve) -> Page:
    median = _median(found)
    half = (
        f"Half of the images have an adversarial image within {median:.4g}."
        if np.isfinite(median)
        else "An adversarial image was found for at most half of the images."
    )
    title = "Robust accuracy against epsilon"
    return Page(
        title=f"{title}: {name}",
        summary=f"{half} If attacks find what breaks a model, its accuracy falls to 0 as epsilon"
        " grows.",
        facts=facts,
        sections=(section(curve, title, chart="curve"),),
        details={},
    )


if __name__ == "__main__":
    sys.exit(main())
