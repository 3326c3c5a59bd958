"""Imports run one way, from the command down to the formulas, without cycles of packages."""

import ast
import functools
from pathlib import Path

import pytest

import bat_jax

ROOT = Path(bat_jax.__file__).parent
# From the lowest level up; a part may import parts of its own level and of lower levels.
LEVELS = (
    ("errors",),
    ("fields", "keys", "losses", "outside", "pages", "parallel"),
    ("environment", "kernels", "overrides", "runtime"),
    ("attacks", "data", "memorization", "methods", "models"),
    ("agreement", "config", "evaluation", "settings"),
    ("training",),
    ("ensemble", "interop"),
    ("findings", "report"),
    ("jobs",),
    ("arguments", "cli"),
)
LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}


def part_of(module):
    """Returns the module or package directly below bat_jax that contains a dotted name, if any."""
    parts = module.split(".")
    return parts[1] if parts[0] == "bat_jax" and len(parts) > 1 else None


def imported(path):
    """Yields the parts that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "bat_jax":
            yield from (part_of(f"bat_jax.{name.name}") for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield part_of(node.module)
        elif isinstance(node, ast.Import):
            yield from (part_of(name.name) for name in node.names)


@functools.cache
def arrows():
    """Returns the other parts that each part imports."""
    found = {}
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        # `bat_jax.fit` belongs to the jobs, and is imported on first use.
        if part != "__init__":
            found.setdefault(part, set()).update(set(imported(path)) - {None, part})
    return found


def test_every_part_has_a_level():
    assert set(arrows()) == set(LEVEL)


def test_no_arrow_points_up():
    up = {
        (part, other)
        for part, others in arrows().items()
        for other in others
        if LEVEL[other] > LEVEL[part]
    }
    assert not up


def test_no_packages_import_each_other_in_a_circle():
    graph = arrows()

    def reached(part):
        found, waiting = set(), [part]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    assert not [part for part in graph if part in reached(part)]


def test_memorization_does_not_import_training():
    assert not arrows()["memorization"] & {"training", "ensemble", "methods", "jobs"}


def bound(tree, package):
    """Yields the names that a package's `__init__` binds to anything but its own modules."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import) or (
            isinstance(node, ast.ImportFrom) and node.module != package
        ):
            yield from (name.asname or name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize(
    "init", sorted(ROOT.rglob("__init__.py")), ids=lambda init: init.parent.name
)
def test_no_name_of_a_package_hides_one_of_its_modules(init):
    folder = init.parent
    package = ".".join(folder.relative_to(ROOT.parent).parts)
    modules = {path.stem for path in folder.glob("*.py")}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert not modules & set(bound(ast.parse(init.read_text()), package))


def test_a_function_named_as_a_module_is_found():
    text = "from p.a import b\nfrom p import c\nimport x.d\ndef e(): pass\nf: int = 1\n"
    assert set(bound(ast.parse(text), "p")) == {"b", "x", "e", "f"}
