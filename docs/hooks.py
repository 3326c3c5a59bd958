"""Hooks of mkdocs: pages of files outside `docs/`, and links to any file of the repository.

Markdown files link to one another, and to sources, by their places in the repository. Here such a
link becomes one to the file's page: its own for Markdown and for the tutorial, a notebook with its
outputs, else one that shows the file's text. Pages below `api/` are made of docstrings, and the
tables of `config_fields.md` from the declarations of the fields.
"""

import os
import re
from pathlib import Path, PurePosixPath

import config_fields
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebooks import converted

_ROOT = Path(__file__).parents[1]
_DOCS = PurePosixPath("docs")
# Markdown files outside `docs/`, and the pages they become.
_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks/index.md",
    "benchmarks/accelerator.md": "benchmarks/accelerator.md",
}
_NOTEBOOKS = {"examples/tutorial.ipynb": "tutorial.md"}
_COPIED = (".svg", ".png", ".json")
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
_FIELDS = "<!-- tables -->"
_API = re.compile(r"api/([\w.]+)\.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of files outside `docs/`, of docstrings, and of every file that is linked."""
    for path, uri in _PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(_ROOT / path)))
    for path, uri in _NOTEBOOKS.items():
        notebook = converted(_ROOT / path)
        files.append(File.generated(config, uri, content=notebook.markdown))
        for name, content in notebook.images.items():
            files.append(File.generated(config, name, content=content))
    for uri in _API.finditer(str(config.nav)):
        content = f"::: {uri[1]}\n"
        files.append(File.generated(config, uri[0], content=content))
    for page in files.documentation_pages():
        if page.abs_src_path:
            place = _place(page)
            for link in _LINK.findall(Path(page.abs_src_path).read_text()):
                _add(_target(place, link), files, config)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links of a page to pages, and fills the tables of config fields."""
    del config, files
    notebooks = {uri: PurePosixPath(path) for path, uri in _NOTEBOOKS.items()}
    if page.file.src_uri in notebooks:
        place = notebooks[page.file.src_uri]
    elif page.file.abs_src_path:
        place = _place(page.file)
    else:
        return markdown
    start = PurePosixPath(page.file.src_uri).parent

    def led(link: re.Match[str]) -> str:
        target = _target(place, link[1])
        # Code such as `x[0](y)` looks like a link; mkdocs warns of links to missing files.
        return os.path.relpath(_uri(target), start) if (_ROOT / target).exists() else link[0]

    markdown = _LINK.sub(led, markdown)
    if _FIELDS in markdown:
        markdown = markdown.replace(_FIELDS, config_fields.tables())
    return markdown


def _add(path: PurePosixPath, files: Files, config: MkDocsConfig) -> None:
    """Adds the page of a file or folder, unless it is there or there is no such file."""
    uri = _uri(path)
    source = _ROOT / path
    if uri in files.src_uris or not source.exists():
        return
    if source.is_dir():
        inner = sorted(p for p in source.iterdir() if p.suffix == ".py")
        links = "\n".join(f"- [`{p.name}`]({source.name}/{p.name}.md)" for p in inner)
        content = f"# `{path}`\n\n{links}\n"
        files.append(File.generated(config, uri, content=content))
        for p in inner:
            _add(path / p.name, files, config)
    elif source.suffix in _COPIED:
        files.append(File.generated(config, uri, abs_src_path=str(source)))
    else:
        language = {".py": "python"}.get(source.suffix, "text")
        content = f"# `{path}`\n\n````{language}\n{source.read_text()}````\n"
        files.append(File.generated(config, uri, content=content))


def _place(file: File) -> PurePosixPath:
    """Returns where a page's Markdown is in the repository."""
    return PurePosixPath(Path(str(file.abs_src_path)).relative_to(_ROOT).as_posix())


def _target(place: PurePosixPath, link: str) -> PurePosixPath:
    """Returns the place in the repository that a link leads to."""
    return PurePosixPath(os.path.normpath(place.parent / link))


def _uri(path: PurePosixPath) -> str:
    """Returns the file of the site, before rendering, for a file or folder of the repository."""
    pages = _PAGES | _NOTEBOOKS
    if str(path) in pages:
        return pages[str(path)]
    if path.is_relative_to(_DOCS):
        return str(path.relative_to(_DOCS))
    return str(path) if path.suffix in _COPIED else f"source/{path}.md"
