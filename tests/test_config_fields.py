"""The site's page of config fields shows every field as the schema has it, with its meaning."""

import importlib.util
import re
from pathlib import Path

import pytest

from bat_jax import config, fields

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages():
    path = ROOT / "docs" / "config_fields.py"
    spec = importlib.util.spec_from_file_location("config_fields", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _flat(schema, prefix=""):
    for name, field in schema.items():
        if isinstance(field, fields.Field):
            yield prefix + name, field
        else:
            yield from _flat(field, f"{prefix}{name}.")


def _declared(pages, section):
    found = {n: f for n, f in pages.flat(section) if isinstance(f, pages.Declared)}
    return {name: _real(pages, field) for name, field in found.items()}


def _real(pages, value):
    """Returns the field that a declaration makes."""
    if not isinstance(value, pages.Declared):
        return value
    values = [_real(pages, entry) for entry in value.values]
    return getattr(fields, value.kind)(*values, **value.options)


def test_the_fields_of_training_are_those_of_the_schema(pages):
    schema = config.schema_of(config.default())
    assert _declared(pages, pages.training()) == dict(_flat(schema))


def test_the_fields_of_findings_are_those_of_the_schema(pages):
    schema = dict(_flat(config.schema_of(config.findings())))
    schema.pop("job")
    training = _declared(pages, pages.training())
    training.pop("job")
    assert training | _declared(pages, pages.findings()) == schema


def test_the_fields_of_evaluation_are_those_of_the_schema(pages):
    schema = config.schema_of(config.evaluation())
    assert _declared(pages, pages.evaluation()) == dict(_flat(schema))


def test_every_field_has_a_meaning(pages):
    parts = (pages.training(), pages.findings(), pages.evaluation())
    found = [pair for part in parts for pair in pages.flat(part)]
    # A comment above the field in bat_jax/config.py, or in the method's class, is its meaning.
    assert not [name for name, field in found if not field.meaning]


def test_the_tables_show_defaults_and_values_in_words(pages):
    tables = pages.tables()
    assert "| `attack.epsilon` | `8/255` | number, 0 or more |" in tables
    assert "| `train.label_smoothing` | `0.0` | number, 0 or more and below 1 |" in tables
    assert "| `memorization.threshold` | `0.15` | number, -1 to 1 |" in tables
    assert "| `data.path` | unset | text |" in tables
    assert "`evaluation.tolerance` | unset | number, above 0 and below 1 |" in tables
    rows = [line for line in tables.splitlines() if line.startswith("| `")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)


def test_the_page_marks_the_place_of_the_tables(pages):
    hooks = (ROOT / "docs" / "hooks.py").read_text()
    (mark,) = re.findall(r'_FIELDS = "(.+)"', hooks)
    assert (ROOT / "docs" / "config_fields.md").read_text().count(mark) == 1
