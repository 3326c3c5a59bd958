"""Plans the runs of the findings from the config and the estimates."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import methods
from bat_jax.data.dataset import Split
from bat_jax.errors import UserError
from bat_jax.evaluation.records import AUTOATTACK, STATES, Measure
from bat_jax.fields import shown
from bat_jax.findings import design, removal
from bat_jax.runtime.storage import AnyPath
from bat_jax.training import recipe


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run to make.

    Attributes:
      part: one of `bat_jax.config.PARTS`.
      arm: a method, a variant of BAT or a removal, run once per seed.
      seed: the run's seed.
      config: the run's config.
      removed: ids of the training images that the run leaves out, if any.
      excluded: these and the ids that every run leaves out, for the file that its config names.
    """

    part: str
    arm: str
    seed: int
    config: ConfigDict
    removed: Int64[np.ndarray, " ids"] | None = None
    excluded: Int64[np.ndarray, " excluded"] | None = None

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.arm}-seed{self.seed}"


def plan(
    config: ConfigDict,
    train: Split,
    atypical: Int64[np.ndarray, " ids"],
    folder: AnyPath,
    harm: removal.Harm = removal.NONE,
    excluded: Int64[np.ndarray, " excluded"] | None = None,
) -> list[Planned]:
    """Returns all runs in order of execution, grouped by seed.

    Args:
      config: from `bat_jax.config.findings()`, with `memorization.estimates` set.
      train: the training images.
      atypical: ids of the atypical training images.
      folder: the folder of the files with removed ids.
      harm: of the training images, for `findings.harmful`.
      excluded: ids that every run leaves out (`data.exclude`), if there are any.
    """
    settings = config.findings
    everywhere = np.zeros(0, np.int64) if excluded is None else excluded
    runs = []
    for seed in settings.seeds:
        for method in settings.methods:
            runs.append(Planned("methods", method, seed, trained(config, "methods", method, seed)))
        for arm, ids in removal.removed(settings, train, atypical, harm, seed=seed):
            base = trained(config, "removal", "pgd_at", seed)
            base.data.exclude = str(folder / f"{arm}-seed{seed}.txt")
            runs.append(Planned("removal", arm, seed, base, ids, np.union1d(ids, everywhere)))
        for name, changes in variants(config).items():
            base = trained(config, "variants", "bat", seed)
            _change(base, name, changes)
            runs.append(Planned("variants", variant_arm(name), seed, base))
    return runs


def ensemble(config: ConfigDict, *, section: str = "ensemble") -> ConfigDict:
    """Returns the config of the ensemble that estimates memorization of the training images.

    It also learns from the held-out images, so that the seed draws the same images. Options that
    only single runs have are left out.

    Args:
      config: of the findings.
      section: `ensemble`, or `robust_ensemble` for influence under attack.
    """
    run = _section_by_section(config)
    run.job = "memorization"
    run.data.seed = config.seed if config.data.seed is None else config.data.seed
    run.data.subset = config.data.subset and config.data.subset + config.data.validation
    run.data.validation = 0
    run.data.extra = run.data.placement = run.train.swa_start_epoch = None
    run.train.collapse.watch, run.train.collapse.retries = False, 0
    run.evaluation.track.images = 0
    _update(run, config.findings[section], f"findings.{section}")
    _check(run)
    return run


def comparisons(config: ConfigDict) -> list[tuple[str, str]]:
    """Returns the pairs of (c): a run of bat, and another method or an earlier run of bat.

    Both perturb their weights (AWP), or neither does. `bat` comes first, against all of its others.
    """
    objectives = {name: objective(config, name) for name in config.findings.methods}
    of_bat = [name for name, objective in objectives.items() if objective.name == "bat"]
    of_bat.sort(key=lambda name: name != "bat")
    return [
        (ours, other)
        for number, ours in enumerate(of_bat)
        for other, objective in objectives.items()
        if other not in of_bat[number:]
        and (objective.awp.gamma > 0) == (objectives[ours].awp.gamma > 0)
    ]


def objective(config: ConfigDict, arm: str) -> ConfigDict:
    """Returns the objective of one of `findings.methods`."""
    return trained(config, "methods", arm, config.findings.seeds[0]).objective


def attacks(config: ConfigDict) -> dict[str, Any]:
    """Returns the measure of robust accuracy by part and state, and the one `tracked`."""
    settings, evaluation = config.findings, config.evaluation
    robust = Measure.pgd(evaluation.num_steps).key

    def strongest(part: str, state: str) -> str:
        is_attacked = evaluation.attacks and part in settings.autoattack
        return AUTOATTACK.key if is_attacked and state in evaluation.attacked else robust

    found = {part: {state: strongest(part, state) for state in STATES} for part in configs.PARTS}
    return {**found, "tracked": Measure.pgd(evaluation.track.num_steps).key}


def variants(config: ConfigDict) -> dict[str, Any]:
    """Returns the variants of BAT, those of the designed search after the named ones."""
    settings = config.findings
    return {**settings.variants, **design.variants(settings.factors.to_dict())}


def variant_arm(name: str) -> str:
    """Returns the name of a variant of BAT."""
    return f"bat-{name}"


def validate(config: ConfigDict) -> None:
    """Raises a UserError if a field of `config.findings` is invalid."""
    configs.check(config)
    _check_methods(config)
    _check_tracking(config)
    _check_ensembles(config)
    _check_removals(config)
    _check_looks(config)
    _check_factors(config)
    _check_variants(config)


def _check_methods(config: ConfigDict) -> None:
    """Checks the methods, the arms, and which AutoAttack attacks."""
    settings = config.findings
    for field, values in (("methods", settings.methods), ("tracked", settings.tracked)):
        for method in values:
            if method not in settings.arms:
                methods.find(method, f"findings.{field}")
    for name in settings.arms:
        if name in methods.METHODS:
            raise UserError(
                f"config.findings.arms has {name}, the name of a method; expected another name"
            )
        trained(config, "methods", name, settings.seeds[0])
    if settings.autoattack and "methods" not in settings.autoattack:
        raise UserError(
            f"config.findings.autoattack is {settings.autoattack}; expected methods among them, or"
            " none: the other runs are compared with pgd_at and bat"
        )
    for method in ("pgd_at", "bat"):
        if method not in settings.methods:
            raise UserError(
                f"config.findings.methods is {settings.methods}; expected {method} among them"
            )
    for method in settings.methods:
        trained(config, "methods", method, settings.seeds[0])


def _check_tracking(config: ConfigDict) -> None:
    """Checks which methods are tracked, and by what."""
    settings = config.findings
    if "pgd_at" not in settings.tracked or not set(settings.tracked) <= set(settings.methods):
        raise UserError(
            f"config.findings.tracked is {settings.tracked}; expected pgd_at and other methods of"
            " config.findings.methods"
        )
    if not config.evaluation.track.images or not config.evaluation.losses:
        raise UserError(
            f"config.evaluation.track.images is {config.evaluation.track.images} and"
            f" config.evaluation.losses {config.evaluation.losses}; expected some of both, which"
            " the findings need"
        )
    if "cross_entropy" not in config.evaluation.losses:
        raise UserError(
            f"config.evaluation.losses is {config.evaluation.losses}; expected cross_entropy"
            " among them"
        )


def _check_ensembles(config: ConfigDict) -> None:
    """Checks that the ensembles estimate influence, if they are made."""
    settings = config.findings
    made = {
        "ensemble": config.memorization.estimates is None,
        "robust_ensemble": bool(settings.harmful) and settings.robust_estimates is None,
    }
    for section, is_made in made.items():
        if is_made and ensemble(config, section=section).memorization.influence == "none":
            raise UserError(
                f"config.findings.{section} has memorization.influence none; expected class or"
                " full: atypical test images and harmful images are found by their influence"
            )


def _check_removals(config: ConfigDict) -> None:
    """Checks the parts of images to remove, and what harmful ones need."""
    settings = config.findings
    for field in ("removed", "harmful"):
        percents = [round(100 * part) for part in settings[field]]
        if 0 in percents or len(set(percents)) < len(percents):
            raise UserError(
                f"config.findings.{field} is {shown(settings[field])}; expected parts of 0.01 or"
                " more that differ by 0.01 or more: the names of runs have whole percents"
            )
    if settings.harmful and not config.evaluation.subset:
        raise UserError(
            f"config.evaluation.subset is {config.evaluation.subset}; expected above 0 with"
            " config.findings.harmful: the test images outside of the subset choose the images"
        )
    if settings.harmful and settings.robust_estimates is None:
        members = ensemble(config, section="robust_ensemble")
        if methods.find(members.objective.name).attack is None or (
            members.memorization.inputs != "adversarial"
        ):
            raise UserError(
                f"config.findings.robust_ensemble trains {members.objective.name} and scores"
                f" {members.memorization.inputs} images; expected an adversarial method, scored on"
                " adversarial images"
            )


def _check_looks(config: ConfigDict) -> None:
    """Checks that looks ascend and no seed comes after the last."""
    settings = config.findings
    looks = tuple(settings.looks)
    if looks != tuple(sorted(looks)):
        raise UserError(f"config.findings.looks is {looks}; expected ascending numbers of seeds")
    if looks and len(settings.seeds) > looks[-1]:
        raise UserError(
            f"config.findings.seeds has {len(settings.seeds)} seeds and config.findings.looks ends"
            f" at {looks[-1]}; expected no more seeds than the last look has"
        )


def _check_variants(config: ConfigDict) -> None:
    """Checks the variants of BAT, each by itself."""
    settings = config.findings
    for name, changes in settings.variants.items():
        if not isinstance(changes, ConfigDict):
            raise UserError(
                f"config.findings.variants.{name} is {shown(changes)}; expected values for fields"
                " of config.objective.bat"
            )
        unknown = set(changes) - set(config.objective.bat)
        if unknown:
            raise UserError(
                f"config.findings.variants.{name} has {', '.join(sorted(unknown))}; expected fields"
                " of config.objective.bat"
            )
        _change(trained(config, "variants", "bat", settings.seeds[0]), name, changes)


def _check_factors(config: ConfigDict) -> None:
    """Checks the levels of the designed search, each by itself."""
    factors = config.findings.factors
    if len(factors) > design.MOST_FACTORS:
        raise UserError(
            f"config.findings.factors has {len(factors)} options; expected at most"
            f" {design.MOST_FACTORS}"
        )
    for name, levels in factors.items():
        is_pair = isinstance(levels, tuple | list) and len(levels) == 2
        if name not in config.objective.bat or not is_pair or levels[0] == levels[1]:
            raise UserError(
                f"config.findings.factors.{name} is {shown(levels)}; expected two values of a field"
                " of config.objective.bat"
            )
        for level in levels:
            base = trained(config, "variants", "bat", config.findings.seeds[0])
            _change(base, name, {name: level}, section="factors")


def trained(config: ConfigDict, part: str, method: str, seed: int) -> ConfigDict:
    """Returns the findings' config for a run of one seed.

    Args:
      config: of the findings.
      part: one of `bat_jax.config.PARTS`.
      method: the name of a method or of one of `findings.arms`.
      seed: the run's seed.
    """
    settings = config.findings
    run = _section_by_section(config)
    run.seed = seed
    if run.data.seed is None:
        run.data.seed = config.seed
    changes = settings.arms.get(method)
    if changes is None:
        _choose(run, method)
    else:
        _update(run, changes, f"findings.arms.{method}")
    select_by = methods.find(run.objective.name).select_by
    if select_by == "clean":
        run.evaluation.select_by = select_by
        # Without adversarial training there is no robustness to collapse.
        run.train.collapse.watch, run.train.collapse.retries = False, 0
    if part not in settings.autoattack:
        run.evaluation.attacks = ()
    if part != "methods" or method not in settings.tracked:
        run.evaluation.track.images = 0
    _check(run)
    return run


def _choose(config: ConfigDict, method: str) -> None:
    """Names the method of a run, with the section of a method from outside."""
    config.objective.name = method
    methods.complete(config)


def _check(run: ConfigDict) -> None:
    """Checks the config of a run, with the fields of a method from outside, and its options."""
    configs.check(run)
    methods.check(run.objective)
    recipe.check(run, methods.create(run.objective, methods.Setup(run.attack.num_steps)))


def _change(
    config: ConfigDict,
    variant: str,
    changes: ConfigDict | Mapping[str, Any],
    section: str = "variants",
) -> None:
    try:
        config.objective.bat.update(changes)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"config.findings.{section}.{variant}: {_in_words(error)}; expected values for fields"
            " of config.objective.bat"
        ) from None
    configs.check(config)


def _update(config: ConfigDict, changes: Any, field: str) -> None:
    """Updates a config by sections.

    Raises:
      UserError: the changes are no sections of the config, or none of their fields.
    """
    try:
        given = changes.to_dict()
        objective = given.get("objective")
        if isinstance(objective, dict) and "name" in objective:
            _choose(config, objective["name"])
        with config.train.optimizer.options.unlocked():  # Any optimizer's.
            config.update(given)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"config.{field}: {_in_words(error)}; expected sections of this config and their fields"
        ) from None


def _in_words(error: Exception) -> str:
    """Returns an error's message on one line, without the quotes of a KeyError."""
    return " ".join(str(error.args[0] if error.args else error).split())


def _section_by_section(config: ConfigDict) -> ConfigDict:
    """Returns a training config with the sections of the findings' config."""
    run = configs.default()
    _choose(run, config.objective.name)
    for name, value in config.items():
        if name in run and isinstance(value, ConfigDict):
            with run.train.optimizer.options.unlocked():
                run[name].update(value.to_dict())
    run.seed = config.seed
    return run
