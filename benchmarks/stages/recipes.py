"""The configs that the stages train: pages of `configs/`, at toy size for a trial."""

import runpy

from ml_collections import ConfigDict

from bat_jax import pages
from stages.stage import Run

# Training images of a trial.
_TOY = 320


def training(run: Run, method: str, *, seed: int) -> ConfigDict:
    """Returns the fast recipe of a method on CIFAR-100; `<method>_awp` adds weight perturbation."""
    plain = method.removesuffix("_awp")
    config = _page(f"cifar100_{plain}_fast")
    if method != plain:
        config.objective.awp = _page(f"cifar100_{method}").objective.awp
    config.seed = seed
    config.data.path = None if run.data is None else str(run.data)
    config.evaluation.losses = ("cross_entropy",)
    config.evaluation.attacks = ()
    config.parallel.devices = 1
    if run.smoke:
        # What compiles fast; CPU is slow in bfloat16.
        config.model.name, config.model.width, config.model.dtype = "small_cnn", 4, "float32"
        config.attack.num_steps = 2
        config.data.validation, config.data.subset = 32, _TOY
        config.train.batch_size = 32
        config.train.epochs = 2
        config.train.log_every = 5
        config.checkpoint.every_epochs = 1
        config.evaluation.num_steps = 2
        config.evaluation.subset = 64
        config.evaluation.batch_size = 32
    return config


def members(run: Run, *, epochs: int, is_random: bool = False) -> ConfigDict:
    """Returns the ensemble on CIFAR-100, its members trained for fewer epochs.

    Args:
      run: the run of the program.
      epochs: of a member.
      is_random: whether the images are random ones in place of CIFAR-100.
    """
    config = _page("cifar100_memorization")
    config.seed = run.seeds[0]
    config.data.path = None if run.data is None else str(run.data)
    config.train.epochs = epochs
    config.parallel.devices = 1
    if run.smoke:
        config.model.name, config.model.width, config.model.dtype = "small_cnn", 4, "float32"
        config.data.subset = 0 if is_random else _TOY
        config.train.batch_size = 32
        config.evaluation.batch_size = 64
    if is_random:
        config.data.name = "digits"  # Never read.
    return config


def _page(name: str) -> ConfigDict:
    config = runpy.run_path(str(pages.find(name)))["get_config"]()
    return config.copy_and_resolve_references()
