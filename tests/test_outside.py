"""Errors of objects from outside the package become one line with their location."""

import sys

import pytest

import bat_jax
from bat_jax import config, data, models, outside
from bat_jax.errors import UserError


def module(tmp_path, monkeypatch, name, text):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "of_two_lines",
            'raise ValueError("a\\nb")',
            "ValueError at of_two_lines.py, line 1: a b)",
        ),
        ("of_an_exit", "import sys\nsys.exit(7)", "(SystemExit at of_an_exit.py, line 2: 7)"),
        (
            "of_no_words",
            "raise KeyError",
            "(KeyError at of_no_words.py, line 1: without a message)",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch, name, text, words):
    module(tmp_path, monkeypatch, name, text)
    with pytest.raises(UserError) as caught:
        outside.load(f"{name}:Thing", "objective.name")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('raise ValueError("a\\nb")', "(ValueError at of_calls.py, line 2: a b)"),
        ('raise OSError("no device")', "(OSError at of_calls.py, line 2: no device)"),
        ("exit(3)", "(SystemExit at of_calls.py, line 2: 3)"),
        ("return {}[1]", "(KeyError at of_calls.py, line 2: 1)"),
        ("return 5", " a int; expected a"),
    ],
)
def test_a_function_that_fails_is_named(tmp_path, monkeypatch, body, words):
    module(tmp_path, monkeypatch, "of_calls", f"def made(*values, **named):\n    {body}\n")
    monkeypatch.delitem(sys.modules, "of_calls", raising=False)
    for use in (
        lambda: data.load("of_calls:made"),
        lambda: models.create("of_calls:made", num_classes=10),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert words in str(caught.value)
        assert str(caught.value).isprintable()


def test_running_out_of_memory_is_not_blamed_on_the_function(tmp_path, monkeypatch):
    module(tmp_path, monkeypatch, "of_memory", "def read(path):\n    raise MemoryError\n")
    with pytest.raises(MemoryError):
        data.load("of_memory:read")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": {"job": "train"}}, "config is a value of type dict; expected a ConfigDict"),
        ({"model": 5}, "model is a value of type int; expected a Flax module"),
        ({"model": models.create}, r"type function \(calling it with nnx\.Rngs fails: "),
        ({"dataset": "digits"}, "dataset is a value of type str; expected a Dataset"),
        ({"config": config.evaluation()}, "config.job is 'evaluation'; expected 'train'"),
    ],
)
def test_fit_says_which_argument_is_wrong(arguments, words):
    with pytest.raises(UserError, match=words):
        bat_jax.fit(**{"config": config.default(), **arguments})
