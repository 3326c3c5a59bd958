"""The public API is what tests/api.txt records, and every public module declares its names."""

import ast

import pytest

from tests import api


def test_the_public_api_is_as_recorded():
    changed = api.change(api.FILE.read_text().splitlines(), api.lines())
    if changed:
        pytest.fail(changed, pytrace=False)


def test_the_changelog_is_of_the_recorded_api():
    mark = api.mark(api.FILE.read_text())
    if mark not in api.CHANGELOG.read_text():
        pytest.fail(
            f"tests/{api.FILE.name} changed: describe the change in CHANGELOG.md, and replace the"
            f" comment at its top by {mark}",
            pytrace=False,
        )


@pytest.mark.parametrize("module", api.MODULES)
def test_public_names_exist_and_are_documented(module):
    for name in api.names(module):
        node = api.declaration(module, name)
        is_alias = not isinstance(node, ast.FunctionDef | ast.ClassDef)
        assert is_alias or ast.get_docstring(node), name


def test_a_change_is_named_in_one_line_with_its_remedy():
    changed = api.change(["m.f(x: int) -> int", "m.g()"], ["m.f(x: str) -> int", "m.g()"])
    assert "\n" not in changed
    assert "-m.f(x: int) -> int; +m.f(x: str) -> int. Run `python -m tests.api`" in changed
    assert "CHANGELOG.md" in changed
    assert "; and 7 more. " in api.change([], [f"m.f{number}()" for number in range(10)])
    assert api.change(["m.g()"], ["m.g()"]) is None


def test_declarations_show_what_callers_rely_on():
    source = '''
class Point(NamedTuple):
    x: float = 0.0
    _hidden: int = 1

    @property
    def length(self) -> float:
        """The length."""

    def _private(self): ...
'''
    assert list(api.declared("m.Point", ast.parse(source).body[0])) == [
        "class m.Point(NamedTuple)",
        "m.Point.x: float = 0.0",
        "@property m.Point.length(self) -> float",
    ]
