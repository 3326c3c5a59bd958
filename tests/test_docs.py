"""The texts are right: snippets run, links, pages and names resolve, the version is current."""

import ast
import contextlib
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import jax
import pytest

import bat_jax
from bat_jax import arguments, pages

ROOT = Path(__file__).parents[1]
TEXTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
# Those with fenced programs.
RUN = tuple(text for text in TEXTS if "```python" in text.read_text())

_SNIPPET = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```python\n(.*?)```", re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
_PAGE = re.compile(r"--config=([\w./-]+)(?![\w./<-])")
_NAME = re.compile(r"`(bat_jax(?:\.\w+)+)")
_COMMAND = re.compile(r"^[ $]*(?:srun )?(?:\S*/)?(?:python launch\.py|bat-jax) (.+)$", re.MULTILINE)

# Fields that make a command on digits a matter of seconds, by the job of its page.
_SHORT = {
    "train": ("train.epochs=1",),
    "memorization": ("train.epochs=1", "data.subset=160", "memorization.members=8"),
}

# The folder of the example whose page a text names.
_EXAMPLES = ROOT / "examples" / "outside"


def _by_text(found):
    return [
        pytest.param(text, value, id=f"{text.name}-{value}"[:80])
        for text in TEXTS
        for value in sorted(found(text.read_text()))
    ]


def _resolves(name):
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:count]))
            for part in parts[count:]:
                if not hasattr(found, part):
                    return False
                found = getattr(found, part)
            return True
    return False


def _calls(text):
    """Yields the functions of the package that indented programs call, with the arguments."""
    imported = {}
    for block in _INDENTED.findall(text):
        # Blocks of commands, formulas and layouts are not Python.
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse(textwrap.dedent(block))):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("bat_jax"):
                    for name in node.names:
                        imported[name.asname or name.name] = f"{node.module}:{name.name}"
                elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in imported:
                    yield pkgutil.resolve_name(imported[node.func.id]), node


def _commands(text):
    """Returns the arguments of each command line, with its continued lines."""
    return {found.split("  #")[0].strip() for found in _COMMAND.findall(text.replace("\\\n", " "))}


def _on_digits(text):
    """Returns the commands of a text that need no data but those in a package."""
    found = sorted(_commands(text.read_text()))
    return [command for command in found if re.search(r"--config=(configs/)?digits_", command)]


@pytest.mark.parametrize("text", RUN, ids=lambda text: text.name)
def test_snippets_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("snippets")
    monkeypatch.setitem(sys.modules, "snippets", module)
    snippets = _SNIPPET.findall(text.read_text())
    assert any(not skipped for skipped, _ in snippets)
    # A reader's program promotes as JAX does by default.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for number, (skipped, source) in enumerate(snippets, 1):
            code = compile(source, f"{text.name}, snippet {number}", "exec")
            if not skipped:
                exec(code, module.__dict__)


def test_indented_programs_call_functions_as_they_are():
    found = [call for text in TEXTS for call in _calls(text.read_text())]
    assert len(found) > 8
    for function, call in found:
        # Three dots stand for what an earlier call has.
        given = [value for value in call.args if getattr(value, "value", None) is not ...]
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        inspect.signature(function).bind_partial(*given, **named)


@pytest.mark.parametrize(("text", "link"), _by_text(lambda text: set(_LINK.findall(text))))
def test_relative_links_lead_to_files(text, link):
    if "://" not in link:
        assert (text.parent / link).exists()


@pytest.mark.parametrize(("text", "page"), _by_text(lambda text: set(_PAGE.findall(text))))
def test_pages_exist(text, page):
    if page.endswith(".py"):
        assert (ROOT / page).is_file() or (_EXAMPLES / page).is_file()
    else:
        assert page in pages.names()


@pytest.mark.parametrize(("text", "name"), _by_text(lambda text: set(_NAME.findall(text))))
def test_names_of_the_package_resolve(text, name):
    del text
    assert _resolves(name) or name == "bat_jax.configs"


@pytest.mark.parametrize(("text", "command"), _by_text(_commands))
def test_command_lines_parse(text, command, monkeypatch):
    del text
    monkeypatch.chdir(_EXAMPLES if "=page.py" in command else ROOT)
    monkeypatch.syspath_prepend(str(_EXAMPLES))
    assert isinstance(arguments.parse(shlex.split(command)), arguments.Arguments)


@pytest.mark.slow  # Each is a process of its own that trains.
@pytest.mark.parametrize("command", _on_digits(ROOT / "README.md"))
def test_commands_of_the_readme_on_digits_run(command, tmp_path, monkeypatch):
    given = shlex.split(command)
    monkeypatch.chdir(ROOT)
    found = arguments.parse(given)
    short = [f"--config.{change}" for change in _SHORT[found.config.job]]
    ended = subprocess.run(
        [sys.executable, ROOT / "launch.py", *given, f"--workdir={tmp_path / 'run'}", *short],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    if not found.dry_run:
        assert (tmp_path / "run" / "results.json").exists()
        assert (tmp_path / "run" / "report.html").exists()


def test_lines_end_at_100_characters():
    is_free = re.compile(r"\||.*\]\(|.*https?://|    F\.\.\. ")  # Tables, links, messages.
    for text in (text for text in TEXTS if text.parent.name != "results"):
        for number, line in enumerate(text.read_text().splitlines(), 1):
            assert len(line) <= 100 or is_free.match(line), f"{text.name}:{number}"


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {bat_jax.__version__}\n" in citation
    assert f"version = {{{bat_jax.__version__}}}" in (ROOT / "README.md").read_text()


def test_the_readme_cites_as_the_citation_file_does():
    citation = (ROOT / "CITATION.cff").read_text()
    entries = " ".join((ROOT / "README.md").read_text().replace("\\_", "_").split())
    given = re.findall(r"- given-names: (.+)\n +family-names: (.+)\n", citation)
    assert f"{{{' and '.join(f'{family}, {name}' for name, family in given)}}}" in entries
    titles = re.findall(r'^ *title: "?(.+?)"?$', citation, re.MULTILINE)
    assert len(titles) == 2
    for title in (*titles, "arXiv:2106.04794", "The bat_jax developers"):
        assert title in entries
