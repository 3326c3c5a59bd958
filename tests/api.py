"""The public API as text, a line for each signature, field and alias.

`python -m tests.api` writes it to tests/api.txt; tests/test_api.py compares the two. The changelog
holds the file's digest, which is written by hand, so that a change of the API touches it.
Declarations are read from the sources of the names in `__all__`, because type checks at run time
wrap objects.
"""

import ast
import functools
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

from ml_collections import ConfigDict

import bat_jax
from bat_jax import config

FILE = Path(__file__).parent / "api.txt"
CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
MODULES = (
    "bat_jax",
    "bat_jax.attacks",
    "bat_jax.config",
    "bat_jax.data",
    "bat_jax.data.corruptions",
    "bat_jax.errors",
    "bat_jax.evaluation",
    "bat_jax.fields",
    "bat_jax.interop",
    "bat_jax.jobs",
    "bat_jax.kernels.convolution",
    "bat_jax.keys",
    "bat_jax.losses",
    "bat_jax.memorization",
    "bat_jax.memorization.proxies",
    "bat_jax.memorization.released",
    "bat_jax.methods",
    "bat_jax.models",
    "bat_jax.parallel",
    "bat_jax.report",
    "bat_jax.training",
)
_SHOWN = 3


def lines() -> list[str]:
    """Returns the names in `__all__`, then the config fields with their defaults."""
    found = []
    for module in MODULES:
        for name in names(module):
            found += declared(f"{module}.{name}", declaration(module, name))
    default = list(_fields(config.default()))
    found += [f"config.default().{field}" for field in default]
    for make in (config.evaluation, config.findings):
        others = [field for field in _fields(make()) if field not in default]
        found += [f"config.{make.__name__}().{field}" for field in others]
    return found


def names(module: str) -> list[str]:
    """Returns the names in a module's `__all__`, except the version."""
    (declared,) = (node for node in _statements(module) if _assigned(node) == "__all__")
    return [name for name in ast.literal_eval(declared.value) if name != "__version__"]


def declaration(module: str, name: str) -> ast.stmt:
    """Returns the statement that declares a name, in the module or where it is imported from."""
    for node in _statements(module):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return declaration(node.module, alias.name)
        elif name in (_assigned(node), getattr(node, "name", None)):
            return node
    raise LookupError(f"{module} declares no {name}")


def declared(name: str, node: ast.stmt) -> Iterator[str]:
    """Yields the public lines of a declaration, each with its dotted name."""
    if isinstance(node, ast.FunctionDef):
        decorators = "".join(f"@{ast.unparse(found)} " for found in node.decorator_list)
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        yield f"{decorators}{name}({ast.unparse(node.args)}){returns}"
    elif isinstance(node, ast.ClassDef):
        yield f"class {name}({', '.join(ast.unparse(base) for base in node.bases)})"
        for member in node.body:
            inner = member.name if isinstance(member, ast.FunctionDef) else _assigned(member)
            if inner and (not inner.startswith("_") or inner in ("__call__", "__init__")):
                yield from declared(f"{name}.{inner}", member)
    elif isinstance(node, ast.AnnAssign):
        value = f" = {ast.unparse(node.value)}" if node.value else ""
        yield f"{name}: {ast.unparse(node.annotation)}{value}"
    elif isinstance(node, ast.Assign):
        yield f"{name} = {ast.unparse(node.value)}"


def change(recorded: Collection[str], current: Collection[str]) -> str | None:
    """Describes how the API differs from its record in one line; None if it does not."""
    removed = [f"-{line}" for line in recorded if line not in current]
    added = [f"+{line}" for line in current if line not in recorded]
    found = removed + added
    if not found:
        return None
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"the public API changed: {'; '.join(found[:_SHOWN])}{more}. Run `python -m tests.api` to"
        f" update tests/{FILE.name}, and describe the change in CHANGELOG.md"
    )


def mark(recorded: str) -> str:
    """Returns the comment in the changelog that belongs to a record of the API."""
    return f"<!-- tests/api.txt: {hashlib.sha256(recorded.encode()).hexdigest()[:12]} -->"


@functools.cache
def _statements(module: str) -> list[ast.stmt]:
    """Returns the statements of a module, those of `if TYPE_CHECKING` among them."""
    path = Path(bat_jax.__file__).parents[1].joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    top = ast.parse(path.read_text()).body
    return [*top, *(inner for node in top if isinstance(node, ast.If) for inner in node.body)]


def _assigned(node: ast.stmt) -> str | None:
    if isinstance(node, ast.Assign):
        (target,) = node.targets
    elif isinstance(node, ast.AnnAssign):
        target = node.target
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None


def _fields(section: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {value!r}"


if __name__ == "__main__":
    FILE.write_text("".join(f"{line}\n" for line in lines()))
