"""Makes the tables of all config fields from their declarations, without importing the package.

A field is declared once, as `"extra_fraction": Real(0.7, above=0, below=1)`, below a comment that
says what it does. The declarations alone are evaluated, with classes that record their arguments:
the environment of the site has none of the package's dependencies.
"""

import ast
import dataclasses
import html
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1] / "bat_jax"
_GUIDE = re.compile(r"(?<![\w/])docs/([\w/]+\.md)")


@dataclasses.dataclass(frozen=True)
class Declared:
    """A field as it is declared.

    Attributes:
      kind: the name of its class, such as `Real`.
      values: the arguments by position; the first is the default.
      options: the arguments by name.
      meaning: the comment above the field, or above those that precede it.
    """

    kind: str
    values: tuple[Any, ...]
    options: Mapping[str, Any]
    meaning: str = ""

    @property
    def default(self) -> Any:
        """The value that a config has unless it sets another."""
        return self.values[0]

    @property
    def each(self) -> "Declared":
        """The field of every entry of a `Several`."""
        entry: Declared = self.values[1]
        return entry


class Section(dict[str, Any]):
    """Fields and sections by name, with the comment above them."""

    meaning = ""


def training() -> Section:
    """Returns the fields of a training config, with those of all methods."""
    section = Section(_config()["_DEFAULT"])
    section["objective"] = section["objective"] | _methods()
    return section


def findings() -> Section:
    """Returns the fields that the job `findings` adds to those of a training config."""
    return Section(findings=_config()["_FINDINGS"]["findings"])


def evaluation() -> Section:
    """Returns the fields of the job `evaluation`."""
    return Section(_config()["_EVALUATION"])


def flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Declared | Section]]:
    """Yields the fields of a section, and the sections with a comment, by their whole names."""
    for name, part in section.items():
        if isinstance(part, Declared):
            yield prefix + name, part
            continue
        if isinstance(part, Section) and part.meaning:
            yield prefix + name, part
        yield from flat(part, f"{prefix}{name}.")


def tables() -> str:
    """Returns the Markdown of all fields, one table for each part of a config."""
    whole = training()
    alone = {name: part for name, part in whole.items() if isinstance(part, Declared)}
    sections = {f"`{name}`": {name: part} for name, part in whole.items() if name not in alone}
    parts = [
        ("The config", alone),
        *sections.items(),
        ("The job `findings`", findings()),
        ("The job `evaluation`", evaluation()),
    ]
    return "\n".join(f"## {title}\n\n{_table(fields)}" for title, fields in parts)


def _table(fields: Mapping[str, Any]) -> str:
    rows = ["| field | default | values | meaning |", "| --- | --- | --- | --- |"]
    for name, field in flat(fields):
        text = _GUIDE.sub(r"[docs/\1](\1)", html.escape(field.meaning, quote=False))
        cells = [f"`{name}`", "", "a section", text.replace("|", "&#124;")]
        if isinstance(field, Declared):
            cells[1:3] = _default(field.default), _legal(field)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    """Returns a default as a config page or a command line has it."""
    if value is None:
        return "unset"
    if isinstance(value, Mapping):
        shown = [f"`{name}={_shown(inner)}`" for name, inner in _leaves(value)]
        return ", ".join(shown) or "none"
    return f"`{_shown(value)}`"


def _shown(value: Any) -> str:
    text = repr(value)
    # Such as 8/255, which has 17 digits.
    is_long = isinstance(value, float) and len(text) > 12
    return f"{value * 255:g}/255" if is_long else text


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _legal(field: Declared) -> str:
    """Returns the legal values of a field in words."""
    options = field.options
    match field.kind:
        case "Real":
            return ", ".join(["number", *_bounds(options)])
        case "Integer":
            whole = {"low": 0, **options}
            return ", ".join(["whole number", *_bounds(whole)])
        case "Choice":
            return ", ".join(f"`{choice}`" for choice in field.values[1])
        case "Text":
            return "text"
        case "Flag":
            return "`True`, `False`"
        case "Several":
            least = f", {options['least']} or more of them" if options.get("least") else ""
            distinct = ", distinct" if options.get("unique") else ""
            return f"tuple{least}{distinct}; each: {_legal(field.each)}"
        case "Either":
            return " or ".join(_legal(one) for one in field.values[1:])
        case "Open":
            return "a section of named fields"
    raise ValueError(f"a field of the unknown class {field.kind}")


def _bounds(options: Mapping[str, Any]) -> list[str]:
    """Returns the bounds of a number in words."""
    low, high, above, below = map(options.get, ("low", "high", "above", "below"))
    if low is not None and high is not None:
        return [f"{_shown(low)} to {_shown(high)}"]
    bounds = (
        f"{low} or more" if low is not None else "",
        f"above {above}" if above is not None else "",
        f"at most {high}" if high is not None else "",
        f"below {below}" if below is not None else "",
    )
    return [" and ".join(bound for bound in bounds if bound)] if any(bounds) else []


def _config() -> dict[str, Any]:
    """Returns the constants of `bat_jax.config`, whose fields are `Declared`."""
    tree = _explained(_PACKAGE / "config.py")
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    names = _recorders(tree) | {"optional": _optional, "explain": _explain}
    exec(compile(ast.Module([*assigned], []), "config.py", "exec"), names)
    return names


def _methods() -> Section:
    """Returns the sections of the methods that have fields."""
    found = Section()
    for path in sorted((_PACKAGE / "methods").glob("*.py")):
        tree = _explained(path)
        names = _recorders(tree) | {"explain": _explain}
        for node in tree.body:
            if not isinstance(node, ast.ClassDef) or path.stem == "base":
                continue
            assigned = {
                target.id: ast.Expression(part.value)
                for part in node.body
                if isinstance(part, ast.Assign)
                for target in part.targets
                if isinstance(target, ast.Name) and target.id in ("name", "title", "fields")
            }
            if "fields" in assigned:
                codes = {part: compile(code, path.name, "eval") for part, code in assigned.items()}
                method = {part: eval(code, names) for part, code in codes.items()}
                section = found[method["name"]] = Section(method["fields"])
                section.meaning = f"The method {method['title']}."
    return found


def _recorders(tree: ast.Module) -> dict[str, Any]:
    """Returns what stands for the classes of `bat_jax.fields` that a module imports."""

    def recorder(kind: str) -> Any:
        return lambda *values, **options: Declared(kind, values, options)

    return {
        alias.name: recorder(alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "bat_jax.fields"
        for alias in node.names
    }


def _optional(field: Declared) -> Declared:
    return dataclasses.replace(field, values=(None, *field.values[1:]))


def _explain(value: Any, above: str, behind: str, inherited: str) -> Any:
    """Adds its comments to a field or a section."""
    if isinstance(value, Declared):
        own = " ".join(filter(None, (above or value.meaning, behind)))
        return dataclasses.replace(value, meaning=own or inherited)
    if isinstance(value, dict) and above:
        value = Section(value)
        value.meaning = above
    return value


def _explained(path: Path) -> ast.Module:
    """Returns a module, whose comments above values and behind them are arguments of `explain`."""
    source = path.read_text()
    above: dict[int, str] = {}
    behind: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()
            (above if is_alone else behind)[token.start[0]] = token.string.lstrip("# ")
    tree: ast.Module = _Explaining(above, behind).visit(ast.parse(source))
    return ast.fix_missing_locations(tree)


class _Explaining(ast.NodeTransformer):
    """Passes the values of constants and of dicts, with their comments, to `explain`."""

    def __init__(self, above: Mapping[int, str], behind: Mapping[int, str]) -> None:
        self._above, self._behind = above, behind

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return node
        return self.visit_Assign(ast.copy_location(ast.Assign([node.target], node.value), node))

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        node.value = self._call(node.value, self._comment(node.lineno), "", "")
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        inherited = ""
        for place, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
            if key is not None:
                # The comment above a dict of several fields in one line is that of the dict.
                is_whole = key.lineno == node.lineno and len(node.keys) > 1
                above = "" if is_whole else self._comment(key.lineno)
                behind = self._behind.get(value.end_lineno or 0, "")
                node.values[place] = self._call(value, above, behind, inherited)
                inherited = above or inherited
        return node

    def _comment(self, line: int) -> str:
        first = line
        while first - 1 in self._above:
            first -= 1
        return " ".join(self._above[number] for number in range(first, line))

    def _call(self, value: ast.expr, *comments: str) -> ast.expr:
        arguments = [value, *map(ast.Constant, comments)]
        return ast.copy_location(ast.Call(ast.Name("explain", ast.Load()), arguments, []), value)
