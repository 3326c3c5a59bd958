"""Public functions are documented and annotated, with hyperparameters by keyword."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bat_jax.attacks
import bat_jax.data
import bat_jax.losses
import bat_jax.memorization
import bat_jax.models

ROOT = Path(__file__).parents[1]

ARRAYS = {
    "adversarial_logits",
    "average",
    "classes",
    "clean_logits",
    "conv",
    "dataset",
    "ensemble",
    "estimates",
    "features",
    "images",
    "key",
    "labels",
    "logits",
    "logits_fn",
    "losses",
    "masks",
    "model",
    "name",
    "noise",
    "num_classes",
    "other_logits",
    "path",
    "probabilities",
    "robust_steps",
    "scores",
    "settings",
    "target",
    "targets",
    "test_correct",
    "test_images",
    "test_labels",
    "threshold",
    "train_correct",
    "train_images",
    "train_labels",
    "values",
    "variables",
    "weights",
}


def public_functions():
    for module in (
        bat_jax.attacks,
        bat_jax.data,
        bat_jax.losses,
        bat_jax.memorization,
        bat_jax.models,
    ):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value


FUNCTIONS = dict(public_functions())


def test_the_documented_names_exist():
    for name in (
        "attacks.apgd",
        "attacks.pgd",
        "attacks.autoattack",
        "data.load",
        "losses.bat",
        "losses.bat_weights",
        "losses.discrimination",
        "losses.gairat_weights",
        "losses.mart",
        "losses.temporal_ensembling",
        "losses.temporal_target",
        "losses.trades",
        "losses.weighted_mean",
        "memorization.estimate",
        "memorization.load",
        "memorization.save",
        "memorization.split",
        "models.create",
    ):
        assert f"bat_jax.{name}" in FUNCTIONS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_and_annotated(name):
    function = FUNCTIONS[name]
    assert function.__doc__
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert parameter.name in ARRAYS, f"{parameter.name}: by keyword only?"
        elif len(inspect.signature(function).parameters) > 3:
            assert f"{parameter.name}:" in function.__doc__, f"{parameter.name}: not documented"


@pytest.mark.parametrize("page", sorted((Path(__file__).parents[1] / "configs").glob("[!_]*.py")))
def test_every_config_is_a_page_with_its_command(page):
    documentation = ast.get_docstring(ast.parse(page.read_text()))
    assert documentation is not None
    assert f"python launch.py --config=configs/{page.name}" in documentation
    namespace: dict = {}
    exec(compile(page.read_text(), page, "exec"), namespace)
    config = namespace["get_config"]()
    assert config.is_locked
    if config.job == "findings":
        from bat_jax.findings.plan import validate

        validate(config)
    elif config.job != "evaluation":  # It names no run.
        from bat_jax.config import check

        check(config)


def test_the_losses_import_only_jax_optax_and_jaxtyping():
    # In a new process, because everything is already imported in this one.
    program = (
        "import sys, bat_jax.losses; heavy = ('flax', 'orbax', 'ml_collections', 'scipy',"
        " 'matplotlib', 'sklearn', 'tensorboardX', 'tensorflow_datasets');"
        " print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"
