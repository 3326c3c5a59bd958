"""Figures show the names of users literally and in their space, on any machine."""

import itertools
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bat_jax.report
from bat_jax.report import drawing
from bat_jax.report.drawing import Text
from bat_jax.report.page import Page, Section, write
from bat_jax.report.pictures import grid
from bat_jax.report.style import (
    Chart,
    _width,
    fitted,
    fitted_lines,
    legend,
    line,
    logarithmic,
    point,
    render,
)

ODD = (
    "$x^{$",
    "a$b$c",
    "_hidden",
    "__",
    "tab\there",
    "日本語",
    "\N{GRINNING FACE}",
    "\udcff",
    "x" * 300,
)


def drawn(draw):
    """Returns the figure that `draw` filled, after rendering."""
    figures = []

    def keep(figure):
        figures.append(figure)
        draw(figure)

    render(Chart("name", "title", "alt", "caption", keep))
    # The resolution of the PNG, so that texts have the same extents as there.
    figures[0].set_dpi(200)
    return figures[0]


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_literal_in_legends_ticks_and_titles(name):
    def draw(figure):
        axes = figure.subplots()
        (curve,) = axes.plot([0, 1], [0, 1])
        axes.set_yticks([0], [fitted(name, inches=1.4, size=9.0)])
        axes.set_title(fitted_lines(name, inches=1.0, size=9.0))
        legend(figure, [(curve, name)])

    figure = drawn(draw)
    expected = name.replace("\t", " ").replace("\udcff", "\N{REPLACEMENT CHARACTER}")
    title, entry = figure.axes[0].title, figure.legends[0].get_texts()[0]
    for text in (title, entry, figure.axes[0].get_yticklabels()[0]):
        if len(name) < 100:
            assert text.get_text() == expected
        assert set(text.get_text()) <= {*expected, "\n", "\N{HORIZONTAL ELLIPSIS}"}
    assert not any(text.get_parse_math() for text in figure.findobj(Text))


def test_every_legend_entry_appears_whatever_its_name():
    names = ("_a", "b", "_", "_child0")

    def draw(figure):
        axes = figure.subplots()
        legend(figure, [(axes.plot([0, 1], [n, n])[0], name) for n, name in enumerate(names)])

    figure = drawn(draw)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(names)
    assert len(figure.legends[0].legend_handles) == 4


def test_a_legend_of_many_long_names_leaves_room_for_the_axes():
    names = [f"{number} " + "a long name of a run " * 10 for number in range(20)]

    def draw(figure):
        axes = figure.subplots()
        entries = [(axes.plot([0, 1], [n, n], **line(n))[0], name) for n, name in enumerate(names)]
        legend(figure, entries)

    figure = drawn(draw)
    box = figure.axes[0].get_position()
    assert box.height * figure.get_figheight() > 1.5
    assert figure.legends[0].get_window_extent().width < figure.bbox.width
    assert all(text.get_text().count("\n") <= 1 for text in figure.legends[0].get_texts())


def test_the_names_above_images_do_not_overlap():
    images = np.zeros((8, 4, 4, 1), np.uint8)
    chart = grid("grid", "Grid", images, ["Wonderfully wide class name\nmem 0.93"] * 8, "")
    figure = drawn(chart.draw)
    boxes = [axes.title.get_window_extent() for axes in figure.axes[:4]]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
    assert all(axes.title.get_text().endswith("\nmem 0.93") for axes in figure.axes)


def test_a_long_text_keeps_its_beginning_and_its_end_within_the_lines():
    for name in ("W" * 500, "a few words " * 50, "x" * 40 + "; w 0.30"):
        for lines in (1, 3):
            found = fitted(name, inches=1.0, size=9.0, lines=lines).split("\n")
            assert len(found) <= lines
            assert all(_width(text, 9.0) <= 1.0 for text in found)
            assert "\N{HORIZONTAL ELLIPSIS}" in "".join(found)
            assert found[0][0] == name[0]
            assert found[-1][-1] == name.rstrip()[-1]
    assert fitted("short", inches=1.0, size=9.0) == "short"


def test_more_series_than_colours_differ_from_one_another():
    assert len({tuple(line(number).items()) for number in range(64)}) == 64
    assert len({tuple(point(number).items()) for number in range(64)}) == 64


def test_a_logarithmic_axis_has_plain_numbers():
    def draw(figure):
        axes = figure.subplots()
        axes.plot([0, 1], [1, 5000])
        logarithmic(axes)

    assert {"1", "10", "100", "1,000"} <= set(texts(drawn(draw)))
    assert not any("mathdefault" in text for text in texts(drawn(draw)))


def test_characters_without_a_glyph_are_named_once_per_page(tmp_path, caplog):
    def draw(figure):
        figure.subplots().set_title("日本 한")

    charts = tuple(Chart(f"chart{n}", "", "", "", draw) for n in range(3))
    with caplog.at_level(logging.WARNING):
        write(Page("日本 \udcff", "", {}, (Section("", charts=charts),), {}), tmp_path)
    assert len(caplog.records) == 1
    assert "for 日 本 한; drawn" in caplog.text
    assert "日本 ?" in (tmp_path / "report.html").read_text()


def test_a_user_s_own_settings_do_not_change_a_figure():
    def draw(figure):
        figure.subplots().plot([0, 1], [2, 3])

    chart = Chart("line", "Line", "A line.", "", draw)
    before = render(chart)
    with drawing.matplotlib.rc_context({"text.usetex": True, "lines.marker": "o", "font.size": 30}):
        assert render(chart) == before


@pytest.mark.parametrize("name", ["module://matplotlib_inline.backend_inline", "nonsense", ""])
def test_matplotlib_is_imported_whatever_back_end_is_named(name):
    script = "import os, runpy; runpy.run_path(%r); print(os.environ['MPLBACKEND'])"
    ended = subprocess.run(
        [sys.executable, "-c", script % drawing.__file__],
        env={**os.environ, "MPLBACKEND": name},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == f"{name}\n"


def test_no_other_module_imports_matplotlib():
    root = Path(bat_jax.report.__file__).parents[1]
    importing = re.compile(r"^\s*(import|from) matplotlib", re.M)
    found = {path.name for path in root.rglob("*.py") if importing.search(path.read_text())}
    assert found == {"drawing.py"}
