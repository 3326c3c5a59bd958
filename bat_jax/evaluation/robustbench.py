"""An evaluation in the form of RobustBench's `model_info` files.

Source: RobustBench, arXiv:2010.09670, and the files of its repository. Accuracies are percentages
as texts, with two decimals.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bat_jax.attacks.versions import STANDARD
from bat_jax.data.corruptions import NAMES
from bat_jax.evaluation.records import (
    AUTOATTACK,
    CLEAN,
    WEIGHTS,
    Evaluation,
    evaluations,
    kind_of_tested,
)

# The norms of RobustBench's threat models.
_NORMS = ("linf", "l2")
_WHOLE = kind_of_tested(0)
# The published number of test images, of which an archive may hold a part.
_PUBLISHED = {"cifar10": 10_000, "cifar100": 10_000}


def files(
    results: Mapping[str, Any],
    *,
    dataset: str,
    architecture: str,
    norm: str,
    epsilon: float,
    attacks: Sequence[str],
    images: int,
    kind: str = _WHOLE,
) -> dict[str, dict[str, Any]]:
    """Returns the files of an evaluation in RobustBench's form, by name.

    Weights of a file have `robustbench.json`. A run's state has `robustbench_best.json` or
    `robustbench_last.json` if the standard attacks were run on all images. In L1, RobustBench has
    no threat model.

    Args:
      results: the content of results.json.
      dataset: see `model_info`.
      architecture: see `model_info`.
      norm: of the attacks.
      epsilon: of the attacks.
      attacks: of AutoAttack, in order.
      images: see `model_info`.
      kind: see `model_info`.
    """
    found: dict[str, dict[str, Any]] = {}
    if norm not in _NORMS:
        return found
    for state, evaluation in evaluations(results).items():
        info = model_info(
            evaluation,
            dataset=dataset,
            architecture=architecture,
            norm=norm,
            epsilon=epsilon,
            attacks=attacks,
            images=images,
            kind=kind,
        )
        if state == WEIGHTS:
            found["robustbench.json"] = info
        elif info["autoattack_acc"] is not None:
            found[f"robustbench_{state}.json"] = info
    return found


def model_info(
    evaluation: Evaluation,
    *,
    dataset: str,
    architecture: str,
    norm: str,
    epsilon: float,
    attacks: Sequence[str],
    images: int,
    kind: str = _WHOLE,
) -> dict[str, Any]:
    """Returns the content of a `model_info` file; what an evaluation does not know is None.

    `autoattack_acc` is known if the standard attacks were run without a tolerance, and
    `corruptions_acc` is there if all 15 published corruptions were evaluated. The footnote says on
    how many images, unless these are the whole published test set.

    Args:
      evaluation: of the model's weights.
      dataset: the name of the data set.
      architecture: as RobustBench writes it, `WideResNet-28-10`.
      norm: of the attacks.
      epsilon: of the attacks.
      attacks: of AutoAttack, in order.
      images: the number of images of the whole test set.
      kind: what these are, if not all test images: `test images of 10 of its classes`.
    """
    clean = evaluation.all[CLEAN]
    if kind == _WHOLE:
        images = max(images, _PUBLISHED.get(dataset, 0))
    robust = evaluation.all.get(AUTOATTACK)
    corruptions = {}
    # Their mean is defined over all kinds.
    if evaluation.corrupted is not None and set(evaluation.corrupted.by) == set(NAMES):
        corruptions = {"corruptions_acc": _percent(evaluation.corrupted.mean.accuracy)}
    # A data set of few classes excludes attacks that were named.
    ran = evaluation.attacks or tuple(attacks)
    is_standard = ran == STANDARD and evaluation.sample is None
    return {
        "link": None,
        "name": None,
        "authors": None,
        "venue": None,
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": dataset,
        "architecture": architecture,
        "eps": epsilon_text(epsilon, norm),
        "clean_acc": _percent(clean.accuracy),
        "reported": None,
        "autoattack_acc": _percent(robust.accuracy) if robust and is_standard else None,
        **corruptions,
        "footnote": _footnote(clean.n, images, kind),
    }


def _footnote(tested: int, images: int, kind: str) -> str | None:
    if tested == images and kind == _WHOLE:
        return None
    count = f"{tested:,}" if tested == images else f"{tested:,} of {images:,}"
    return f"On {count} {kind}."


def epsilon_text(epsilon: float, norm: str) -> str:
    """Returns an epsilon as RobustBench writes it: `8/255` in Linf, `0.5` in L2."""
    levels = round(255 * epsilon)
    is_level = norm == "linf" and abs(255 * epsilon - levels) < 1e-4
    return f"{levels}/255" if is_level else f"{epsilon:g}"


def architecture_text(name: str, *, depth: int | None, widening: int | None) -> str:
    """Returns the name of an architecture as RobustBench writes it.

    Args:
      name: of `bat_jax.models.create`; `package.module:Name` stays as it is.
      depth: in layers, if the model has a choice of it.
      widening: of a WRN.
    """
    if ":" in name:
        return name
    if "wide_resnet" in name:
        return f"WideResNet-{depth}-{widening}"
    if "resnet" in name:
        return f"{'PreAct' if 'preact' in name else ''}ResNet-{depth}"
    return name


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f}"
