"""The documentation site builds without warnings, is whole, and loads nothing from a network."""

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests import api

ROOT = Path(__file__).parents[1]
# Attributes whose content the browser loads with the page.
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what the browser loads with it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded = {""}, set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        if values.get(LOADED.get(tag)):
            self.loaded.add(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built from this checkout."""
    program = shutil.which("mkdocs") or shutil.which("mkdocs", path=ROOT / ".venv-docs" / "bin")
    if program is None:
        pytest.skip("mkdocs is not installed: make docs installs it in .venv-docs")
    folder = tmp_path_factory.mktemp("site")
    command = [program, "build", "--strict", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    # Servers alone show 404.html, whose links are absolute.
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


@pytest.mark.slow
def test_every_internal_link_leads_to_a_file_and_an_anchor(pages):
    wrong = []
    for path, page in pages.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or unquote(parts.fragment) not in (
                pages[target].anchors if target in pages else {""}
            ):
                wrong.append(f"{path.name}: {link}")
    assert not wrong
    assert len(pages) > 40


@pytest.mark.slow
def test_pages_load_nothing_from_a_network(pages):
    loaded = {link for page in pages.values() for link in page.loaded}
    assert not [link for link in loaded if urlsplit(link).netloc]


@pytest.mark.slow
def test_the_reference_has_every_public_name(site, pages):
    for module in api.MODULES:
        anchors = pages[site / "api" / f"{module}.html"].anchors
        missing = [name for name in api.names(module) if f"{module}.{name}" not in anchors]
        assert not missing, module


@pytest.mark.slow
def test_linked_sources_and_the_files_of_the_root_have_pages(site):
    for page in ("index", "changelog", "benchmarks/index", "source/examples/outside/mail.py"):
        assert (site / f"{page}.html").is_file()
    assert "AutoAttack" in (site / "search" / "search_index.js").read_text()
    assert (site / "tutorial-1.png").read_bytes().startswith(b"\x89PNG")
    assert 'href="extending.html"' in (site / "tutorial.html").read_text()


def test_every_public_module_has_a_page_in_the_reference():
    listed = re.findall(r": api/([\w.]+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(api.MODULES)


def test_every_guide_is_in_the_navigation():
    listed = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        assert f": {path.relative_to(ROOT / 'docs')}\n" in listed
