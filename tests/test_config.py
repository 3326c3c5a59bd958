"""Every field of every config has a legal value, or is refused by name."""

import json
import math

import pytest
from ml_collections import ConfigDict

from bat_jax import config as configs
from bat_jax import fields
from bat_jax.errors import UserError
from bat_jax.fields import Choice, Flag, Integer, Real, Several, Text


def memorization():
    config = configs.default().unlock()
    config.job = "memorization"
    config.data.validation = 0
    config.objective.name = "standard"
    return config.lock()


CONFIGS = {
    "train": configs.default,
    "memorization": memorization,
    "evaluation": configs.evaluation,
    "findings": configs.findings,
}
# Values that a command line, a config file or a slip may put into any field.
WRONG = (
    None,
    "",
    "abc",
    "a\nb",
    "a\0b",
    "/x" * 3000,
    -1,
    0,
    1e999,
    -1e999,
    math.nan,
    1e-300,
    1e308,
    2**31,
    2**63,
    10**12,
    10**400,
    10**5000,
    [],
    {},
    (),
    (math.nan,),
    ("a",),
    ((),),
    ({},),
    (0, 0.0),
    True,
)


def all_fields(schema, prefix=""):
    for name, field in schema.items():
        if isinstance(field, fields.Field):
            yield f"{prefix}{name}", field
        else:
            yield from all_fields(field, f"{prefix}{name}.")


def plain(config):
    """Returns a config as nested dicts, which take any value."""
    return {k: plain(v) if isinstance(v, ConfigDict) else v for k, v in config.items()}


class Anything(dict):
    """Any values, accessed by attributes as in a config."""

    def __getattr__(self, name):
        value = self[name]
        return Anything(value) if type(value) is dict else value


def with_value(config, path, value):
    """Returns a config with a value in one field that a ConfigDict might reject."""
    *sections, name = path.split(".")
    content = place = Anything(config)
    for part in sections:
        place[part] = dict(place[part])
        place = place[part]
    place[name] = value
    return content


def refusal(config, path, value):
    """Returns the message for a config with this value in one field, or None."""
    try:
        configs.check(with_value(config, path, value))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_value_of_any_field_is_legal_or_refused_by_the_field(kind):
    config = CONFIGS[kind]()
    content = plain(config)
    for path, field in all_fields(configs.schema_of(config)):
        for value in WRONG:
            said = refusal(content, path, value)
            if said is None:
                is_unset = value is None and field.default is None
                assert is_unset or field.expected(value) is None, (path, value)
            else:
                assert f"config.{path}" in said, (path, value)
                assert said.isprintable()
                assert len(said) < 500


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_section_that_is_replaced_is_refused_by_name(kind):
    config = CONFIGS[kind]()
    schema = configs.schema_of(config)
    sections = [path.rpartition(".")[0] for path, _ in all_fields(schema) if "." in path]
    for section in sections:
        for value in (None, {}, (), "abc", {"name": "bat"}):
            assert f"config.{section}" in refusal(plain(config), section, value)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_defaults_are_legal_and_can_be_written_as_json(kind):
    config = CONFIGS[kind]()
    configs.check(config)
    json.dumps(plain(config), allow_nan=False)
    assert config.is_locked


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # 8 that is meant as 8/255.
        (
            {"attack.epsilon": 8.0},
            r"attack\.epsilon is 8\.0; expected at most 1.* 8/255.* 0\.03137",
        ),
        ({"attack.step_size": 2.0}, r"attack\.step_size is 2\.0; expected at most 1"),
        ({"evaluation.step_size": 2.0}, r"evaluation\.step_size is 2\.0; expected at most 1"),
        (
            {"attack.num_steps": 0},
            r"attack\.num_steps is 0; expected above 0 for the objective bat",
        ),
        ({"attack.step_size": 0.0}, r"attack\.step_size is 0\.0; expected above 0"),
        ({"evaluation.num_steps": 0}, r"evaluation\.num_steps is 0; expected 1 or more"),
        ({"evaluation.attacked": ()}, r"evaluation\.attacked is \(\); expected a state"),
        ({"attack.epsilon": 0.0}, r"attack\.epsilon is 0\.0; expected above 0 for AutoAttack"),
        (
            {"train.schedule.boundaries": (4.0, 4)},
            r"boundaries is \(4\.0, 4\); expected each value once",
        ),
        ({"seed": 2**32}, r"seed is 4294967296; expected at most 4294967295"),
        ({"seed": -1}, r"seed is -1; expected 0 or more"),
        ({"data.seed": 2**70}, r"data\.seed is .*; expected at most 4294967295"),
        (
            {"train.ema": 0.999999999999},
            r"train\.ema .* after rounding to float32, which makes it 1",
        ),
        ({"train.optimizer.momentum": 1.0}, r"momentum is 1\.0; expected 0 or more and below 1"),
        ({"train.accumulation": 0}, r"train\.accumulation is 0; expected 1 or more"),
        ({"model.width": 0}, r"model\.width is 0; expected 1 or more"),
        (
            {"model.mean": (math.nan,)},
            r"model\.mean is \(nan,\); expected every .* a finite number",
        ),
        (
            {
                "job": "memorization",
                "data.validation": 0,
                "train.batch_size": 64,
                "train.accumulation": 3,
            },
            r"train\.batch_size is 64; expected a multiple of config\.train\.accumulation, 3",
        ),
        ({"memorization.threshold": 5.0}, r"threshold is 5\.0; expected -1 or more and at most 1"),
        ({"memorization.members": 10**9}, r"members is 1000000000; expected at most 1000000"),
        ({"programs.members_at_once": -1}, r"members_at_once is -1; expected 1 or more"),
        (
            {"objective.name": "madry"},
            r"objective\.name is 'madry'; expected one of bat, gairat, grad_align, mart, pgd_",
        ),
        ({"data.path": "x" * 5000}, r"data\.path is 'x{59}\.\.\.; expected at most 4095 bytes"),
        ({"data.path": "x" * 300}, r"data\.path is .*; expected at most 255 bytes between slashes"),
        ({"job": "evaluation"}, r"job is 'evaluation'; expected one of train, memorization: the"),
        ({"data.validation": 0}, r"data\.validation is 0; expected 1 or more"),
        ({"attack.norm": "l1"}, r"attack\.norm is l1; expected linf or l2: PGD has no step in L1"),
        ({"evaluation.tolerance": 0.0}, r"tolerance is 0\.0; expected above 0 and below 1"),
        ({"evaluation.tolerance": -0.1}, r"tolerance is -0\.1; expected above 0 and below 1"),
        ({"evaluation.tolerance": 1.0}, r"tolerance is 1\.0; expected above 0 and below 1"),
        (
            {"evaluation.tolerance": 0.1, "evaluation.attacks": ("square", "apgd-ce")},
            r"attacks is \('square', 'apgd-ce'\); expected fab-t and square last with",
        ),
    ],
)
def test_nonsense_is_refused_with_a_suggestion(changes, words):
    config = configs.default().unlock()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        configs.check(config)


def test_a_tolerance_is_legal():
    for config in (configs.default(), configs.evaluation(), configs.findings()):
        config.evaluation.attacks = ("apgd-ce", "square", "fab-t")
        config.evaluation.tolerance = 0.003
        configs.check(config)


def test_what_an_ablation_needs_is_legal():
    config = configs.default().unlock()
    config.evaluation.attacks = ()
    for changes in (
        {"attack.epsilon": 0.0},
        {"objective.name": "standard", "attack.num_steps": 0},
        {"attack.norm": "l2", "attack.epsilon": 3.0, "attack.step_size": 1.5},
        {"evaluation.attacked": ()},
        {"train.optimizer.learning_rate": 1e30},
    ):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        configs.check(changed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoints": ()}, r"config\.checkpoints is \(\); expected a tuple of 1 or more values"),
        ({"attack.norm": "linf", "attack.epsilon": 8.0}, r"config\.attack\.epsilon is 8\.0"),
        (
            {"checkpoints": ("last",), "evaluation.attacked": ("best",)},
            r"config\.evaluation\.attacked is \('best',\); expected a state that is evaluated",
        ),
    ],
)
def test_an_empty_evaluation_is_refused(changes, words):
    config = configs.evaluation().unlock()
    config.evaluation.attacks = ("square",)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        configs.check(config)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b", ".hidden"])
def test_a_variant_that_cannot_name_a_folder_is_refused(name):
    config = plain(configs.findings())
    config["findings"]["variants"] = {name: {"alpha": 0.0}}
    with pytest.raises(UserError, match=r"config\.findings\.variants has "):
        configs.check(Anything(config))


def test_a_field_accepts_only_its_values():
    assert Real(0.0).expected(True) == "a number"
    assert Real(0.0).expected(10**400) == "a number that float32 can hold"
    assert Real(0.0).expected(1e308) == "a number that float32 can hold"
    assert Real(0.5, above=0).expected(1e-300).startswith("above 0 after rounding to float32")
    assert Real(0.5, low=0, below=1).expected(0) is None
    assert Integer(1).expected(1.0) == "a whole number"
    assert Choice("a", ("a", "b")).expected(["a"]) == "one of a, b"
    assert Flag(True).expected(1) == "True or False"
    assert Text("a").expected("\udcff") == "text of printable characters"
    assert Text("a").expected("ä ö ß") is None
    assert Several((), Integer(0), unique=True).expected((1, 1)) == "each value once"
    assert (
        Several((), Integer(0)).expected((1, "a"))
        == "every value in the tuple to be a whole number"
    )


def test_a_section_has_the_types_of_its_fields():
    config = fields.section(
        {"a": Integer(None), "b": {"c": Real(0.5)}, "d": Several((1,), Real(0))}
    )
    assert config.get_type("a") is int
    config.b.c = 1
    assert config.b.c == 1.0
    with pytest.raises(TypeError):
        config.a = "one"
