"""Writes one self-contained HTML file from sections of text, tables and charts."""

import base64
import dataclasses
import logging
from collections.abc import Mapping

import jinja2

from bat_jax.report.style import Chart, render
from bat_jax.runtime.files import written_whole
from bat_jax.runtime.storage import AnyPath

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts; the first cell of a row is its header."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page: paragraphs, then tables, then charts."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
      title: the heading.
      summary: the paragraph below it.
      facts: the facts of the run, such as its hardware and duration, by name.
      sections: the sections, in order.
      details: long texts that a reader can unfold, such as the config, by name.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    sections: tuple[Section, ...]
    details: Mapping[str, str]


def write(page: Page, folder: AnyPath) -> AnyPath:
    """Writes `report.html`, and its charts to `figures/` as SVG and PNG; returns the path."""
    path, figures = folder / "report.html", folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    sources: dict[str, dict[str, str]] = {}
    boxes: set[str] = set()
    for section in page.sections:
        for chart in section.charts:
            drawn = render(chart)
            sources[chart.name] = {"light": _uri(drawn.light), "dark": _uri(drawn.dark)}
            boxes |= drawn.boxes
            for kind, content in (("svg", drawn.light), ("png", drawn.png)):
                with written_whole(figures / f"{chart.name}.{kind}") as file:
                    file.write(content)
    if boxes:
        log.warning(
            "figures: the font has no glyph for %s; drawn as boxes", " ".join(sorted(boxes)[:20])
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bat_jax.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    html = environment.get_template("page.html").render(page=page, sources=sources)
    with written_whole(path) as file:
        # File names may contain lone surrogates, which no encoding can represent.
        file.write(html.encode(errors="replace"))
    return path


def _uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
