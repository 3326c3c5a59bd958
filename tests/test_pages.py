"""Config pages are found by name, and read from any folder."""

import ast
import runpy

import pytest

from bat_jax import config, pages
from bat_jax.errors import UserError


def test_a_page_is_found_by_its_name():
    assert pages.find("digits_bat").is_file()
    assert pages.find("digits_bat").name == "digits_bat.py"
    assert {"digits_bat", "evaluation"} <= set(pages.names())


def test_an_installed_package_holds_its_pages(monkeypatch, tmp_path):
    (tmp_path / "bat_jax" / "configs").mkdir(parents=True)
    (tmp_path / "bat_jax" / "configs" / "mine.py").touch()
    (tmp_path / "bat_jax" / "configs" / "__init__.py").touch()
    monkeypatch.setattr(pages, "__file__", str(tmp_path / "bat_jax" / "pages.py"))
    assert pages.names() == ["mine"]


@pytest.mark.parametrize("name", ["digits_bta", "configs/digits_bta.py", "digit_bat"])
def test_an_unknown_name_gets_similar_suggestions(name):
    with pytest.raises(UserError, match=r"no page '.*'; expected .*: digits_bat") as error:
        pages.find(name)
    assert "tiny_imagenet" not in str(error.value)


def test_a_name_unlike_any_lists_all_pages():
    with pytest.raises(UserError) as error:
        pages.find("zzz")
    assert str(error.value).endswith(", ".join(pages.names()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "../bat_jax/config", "__init__", "*", "a\0b"])
def test_only_pages_are_found(name):
    with pytest.raises(UserError):
        pages.find(name)


@pytest.mark.parametrize("name", pages.names())
def test_a_page_needs_only_the_package(monkeypatch, tmp_path, name):
    page = pages.find(name)
    imported = [
        node.module
        for node in ast.walk(ast.parse(page.read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    assert {module.partition(".")[0] for module in imported} <= {"bat_jax", "ml_collections"}
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(page))["get_config"]()
    kinds = {"evaluation": config.evaluation, "findings": config.findings}
    assert set(found) == set(kinds.get(found.job, config.default)())


@pytest.mark.parametrize("method", ["standard", "pgd_at", "trades", "mart", "gairat", "bat"])
def test_a_fast_recipe_differs_in_its_schedule_alone(method):
    def fields(name):
        found = runpy.run_path(str(pages.find(name)))["get_config"]()
        return found.to_dict()

    long, fast = fields(f"cifar100_{method}"), fields(f"cifar100_{method}_fast")
    assert fast["train"]["epochs"] == 30
    assert fast["train"]["batch_size"] == 512
    assert fast["train"]["schedule"]["name"] == "one_cycle"
    assert fast["model"]["dtype"] == "bfloat16"
    for section in ("train", "checkpoint"):
        fast[section] = long[section]
    assert fast == long
