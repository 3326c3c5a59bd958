"""The findings plan every arm once per seed, all else equal, with removals of equal size."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import methods
from bat_jax.data import load
from bat_jax.errors import UserError
from bat_jax.findings.plan import comparisons, ensemble, plan, validate
from bat_jax.findings.removal import by_typicality
from bat_jax.runtime.plain import differences, plain


@pytest.fixture(scope="module")
def train():
    return load("digits").train


def of(config, train, atypical=()):
    return plan(config, train, np.asarray(atypical, np.int64), Path("excluded"))


def test_every_arm_runs_once_per_seed_and_differs_only_in_its_subject(findings_config, train):
    config = findings_config(**{"findings.seeds": (3, 4)})
    config.findings.variants = ConfigDict({"weight_only": {"beta_dl": 0.0}})
    runs = of(config, train)
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) == 2 * (2 + 2 + 1)
    by_name = {run.name: plain(run.config) for run in runs}
    base = by_name["bat-seed3"]

    def fields(name):
        return {row.partition(":")[0] for row in differences(base, by_name[name])}

    assert fields("bat-seed4") == {"seed"}
    assert fields("bat-weight_only-seed3") == {"objective.bat.beta_dl"}
    assert fields("pgd_at-seed3") == {"objective.name", "evaluation.track.images"}
    assert fields("pgd_at-without-100%-random-seed3") == {"objective.name", "data.exclude"}
    # Every seed sees the same images.
    assert {run.config.data.seed for run in runs} == {config.seed}


def test_images_that_every_run_leaves_out_are_left_out_of_removals_too(findings_config, train):
    config, everywhere = findings_config(), train.ids[-3:]
    atypical = train.ids[:10]
    runs = plan(config, train, atypical, Path("excluded"), excluded=everywhere)
    (run,) = (run for run in runs if run.arm == "pgd_at-without-100%-atypical")
    np.testing.assert_array_equal(run.removed, atypical)
    np.testing.assert_array_equal(run.excluded, [*atypical, *everywhere])


def test_bat_is_compared_with_methods_that_perturb_their_weights_as_it_does(findings_config, train):
    config = findings_config()
    awp = {"gamma": 0.01, "start_epoch": 1.0}
    config.findings.arms = ConfigDict(
        {f"{name}_awp": {"objective": {"name": name, "awp": awp}} for name in ("trades", "bat")}
    )
    config.findings.arms.bat_cold = {"objective": {"name": "bat", "bat": {"temperature": 0.05}}}
    config.findings.methods = ("standard", "pgd_at", "bat_awp", "trades_awp", "bat_cold", "bat")
    validate(config)
    made = {run.arm: run.config for run in of(config, train)}
    assert made["trades_awp"].objective.name == "trades"
    assert made["trades_awp"].objective.awp.gamma == 0.01
    assert made["pgd_at"].objective.awp.gamma == 0
    assert comparisons(config) == [
        ("bat", "standard"),
        ("bat", "pgd_at"),
        ("bat_awp", "trades_awp"),
        ("bat_cold", "standard"),
        ("bat_cold", "pgd_at"),
        ("bat_cold", "bat"),
    ]


def test_arms_and_ensembles_may_have_methods_from_outside(findings_config, train):
    outside = "tests.methods.outside:Smoothed"
    config = findings_config()
    # As the command line completes it.
    config.objective.name = outside
    methods.complete(config)
    config.objective.smoothed.amount = 0.4
    changes = {"objective": {"name": outside, "smoothed": {"amount": 0.3}}}
    config.findings.arms = ConfigDict({"soft": changes})
    config.findings.methods = ("pgd_at", "soft", outside, "bat")
    config.findings.ensemble = ConfigDict(changes)
    validate(config)
    made = {run.arm: run.config.objective for run in of(config, train)}
    assert (made["soft"].name, made["soft"].smoothed.amount) == (outside, 0.3)
    assert made[outside].smoothed.amount == 0.4
    assert made["bat"].name == "bat"
    assert ensemble(config).objective.smoothed.amount == 0.3
    assert ("bat", "soft") in comparisons(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"amount": 1.5}, r"config\.objective\.smoothed\.amount is 1\.5; expected .* below 1"),
        ({"amout": 0.1}, r"config\.findings\.arms\.soft: .*amout"),
    ],
)
def test_wrong_fields_of_methods_from_outside_are_refused(findings_config, settings, words):
    config = findings_config()
    objective = {"name": "tests.methods.outside:Smoothed", "smoothed": settings}
    config.findings.arms = ConfigDict({"soft": {"objective": objective}})
    with pytest.raises(UserError, match=words):
        validate(config)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mart", {"objective": {"name": "mart"}}, "the name of a method"),
        ("odd", {"objective": {"nme": "mart"}}, r"findings\.arms\.odd: .*nme"),
        ("odd", {"objective": {"name": "madry"}}, "madry"),
        ("odd", 3, r"findings\.arms\.odd"),
        ("a/b", {}, r"findings\.arms has"),
    ],
)
def test_wrong_arms_are_refused(findings_config, name, changes, words):
    config = findings_config()
    config.findings.arms = ConfigDict({name: changes})
    with pytest.raises(UserError, match=words):
        validate(config)


def test_autoattack_attacks_the_parts_that_are_named(findings_config, train):
    config = findings_config(**{"evaluation.attacks": ("apgd-ce",)})
    attacked = {run.name: run.config.evaluation.attacks for run in of(config, train)}
    assert attacked["bat-seed0"] == ("apgd-ce",)
    assert attacked["pgd_at-without-100%-random-seed0"] == ()


def test_removals_are_of_one_size_and_atypical_ones_of_atypical_images(train):
    atypical = train.ids[5:45]
    some, random = by_typicality(0.5, train, atypical, seed=0).values()
    assert len(some) == len(random) == 20
    assert set(some) <= set(atypical)
    assert set(random) <= set(train.ids)
    assert not set(random) <= set(atypical)
    every = by_typicality(1.0, train, atypical, seed=0)["atypical"]
    np.testing.assert_array_equal(every, np.sort(atypical))
    other = by_typicality(0.5, train, atypical, seed=1)["atypical"]
    assert set(other) != set(some)
    again = by_typicality(0.5, train, atypical, seed=0)["atypical"]
    np.testing.assert_array_equal(some, again)


def test_the_ensemble_learns_from_training_and_held_out_images(findings_config):
    from bat_jax.training.building import build

    config = findings_config(**{"data.subset": 256})
    members = ensemble(config)
    assert members.job == "memorization"
    assert members.objective.name == "standard"
    config.memorization.estimates = None
    config.evaluation.track.images = 0
    run = build(of(config, build(members).train)[0].config)
    images = {*run.train.ids.tolist(), *run.validation.ids.tolist()}
    assert set(build(members).train.ids.tolist()) == images


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"findings.methods": ("bat", "madry")}, r"findings\.methods is 'madry'; expected one of"),
        ({"findings.methods": ("bat",)}, "expected pgd_at among them"),
        ({"findings.tracked": ("standard",)}, r"config\.findings\.tracked"),
        ({"findings.removed": (1.5,)}, "above 0 and at most 1"),
        ({"findings.removed": (0.501, 0.504)}, r"findings\.removed .* differ by 0\.01 or more"),
        ({"findings.harmful": (0.001,)}, r"findings\.harmful .* parts of 0\.01 or more"),
        ({"findings.seeds": (0, 0)}, "each value once"),
        ({"findings.autoattack": ("all",)}, "methods, removal, variants"),
        ({"findings.autoattack": ("removal",)}, "expected methods among them"),
        ({"evaluation.track.images": 0}, "track.images is 0"),
    ],
)
def test_wrong_findings_are_refused_by_field(findings_config, fields, words):
    with pytest.raises(UserError, match=words):
        validate(findings_config(**fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"findings.methods": ("pgd_at", "bat", "mart"), "train.label_smoothing": 0.1},
            r"train\.label_smoothing is 0\.1; expected 0 for the objective mart",
        ),
        ({"data.cutmix": True}, "cutmix is True; expected False for the objective bat"),
    ],
)
def test_an_option_that_a_method_excludes_is_refused_before_anything_starts(
    findings_config, fields, words
):
    with pytest.raises(UserError, match=words):
        validate(findings_config(**fields))


def test_findings_take_options_of_single_runs_and_of_any_optimizer(findings_config, train):
    fields = {
        "train.collapse.watch": True,
        "train.collapse.retries": 1,
        "train.optimizer.name": "optax:lion",
        "data.placement": "host",
    }
    config = findings_config(**fields)
    with config.train.optimizer.options.unlocked():
        config.train.optimizer.options.b1 = 0.95
    validate(config)
    members = ensemble(config)
    assert members.train.optimizer.options.b1 == 0.95
    assert not members.train.collapse.watch
    assert members.data.placement is None
    by_name = {run.name: run.config for run in of(config, train)}
    assert by_name["pgd_at-seed0"].train.collapse.watch
    assert by_name["pgd_at-seed0"].data.placement == "host"


def test_a_variant_of_an_unknown_field_is_refused(findings_config):
    config = findings_config()
    config.findings.variants = ConfigDict({"hot": {"temprature": 1.0}})
    with pytest.raises(UserError, match=r"variants\.hot has temprature"):
        validate(config)


@pytest.mark.parametrize("fields", [{"gate": "memorised"}, {"alpha": "much"}])
def test_a_variant_of_a_wrong_value_is_refused_before_anything_is_made(findings_config, fields):
    config = findings_config()
    config.findings.variants = ConfigDict({"odd": fields})
    with pytest.raises(UserError, match=next(iter(fields))):
        validate(config)


@pytest.mark.parametrize("variants", [{"odd": 3}, {"a/b": {"alpha": 1.0}}])
def test_variants_of_another_form_are_refused(findings_config, variants):
    config = findings_config()
    config.findings.variants = ConfigDict(variants)
    with pytest.raises(UserError, match=r"config\.findings\.variants"):
        validate(config)


@pytest.mark.parametrize(
    "changes", [{"trian": {"epochs": 1}}, {"train": {"epochs": "many"}}, {"train": 3}, {"seed": -1}]
)
def test_an_ensemble_of_other_fields_is_refused(findings_config, changes):
    config = findings_config()
    config.findings.ensemble = ConfigDict(changes)
    with pytest.raises(UserError, match=r"config\."):
        ensemble(config)


def test_the_default_findings_can_be_planned(train):
    config = configs.findings()
    config.evaluation.track.images = 8
    validate(config)
    names = {run.arm for run in of(config, train)}
    assert len(names) == 6 + 4 + 5
