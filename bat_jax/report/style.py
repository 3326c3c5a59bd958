"""The style of every figure: colours that colour-blind readers can distinguish, light and dark.

Names that users choose, for classes, runs and methods, are literal text in every figure: they are
never parsed as mathematics, and `fitted` keeps each within its space.
"""

import dataclasses
import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from cycler import cycler

from bat_jax.report.drawing import (
    Axes,
    Figure,
    NullFormatter,
    Text,
    font_manager,
    matplotlib,
)

# After Okabe & Ito, Color Universal Design, 2008. Charts name them C0, C1, ...
_ON_LIGHT = ("#0072B2", "#D98E00", "#009E73", "#D55E00", "#3C9FD9", "#CC79A7", "#7F7F7F", "#9C9200")
_ON_DARK = ("#4BA6E3", "#E69F00", "#1FC795", "#F2803A", "#8ED0F5", "#DE9CC0", "#A9A9A9", "#F0E442")
# Besides its colour, every series has its own marker and dash pattern.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
# The width of every figure in inches, for the screen of a phone.
_WIDTH = 4.0
_LEGEND_SIZE = 8.0
# Settings of a user's matplotlibrc that do not concern figures.
_NOT_OF_FIGURES = re.compile("backend|interactive|toolbar|webagg|tk|docstring|date.epoch|timezone")
# Control characters have no glyph; lone surrogates come from file names.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]+")
_HEX = re.compile(rb"#[0-9a-fA-F]{6}\b")
_HALF = re.compile(r"[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    ink: str
    surface: str
    grid: str
    colors: tuple[str, ...]

    def palette(self) -> list[bytes]:
        """Returns the colours as they are written in an SVG."""
        named = (self.ink, self.surface, self.grid, *self.colors)
        return [color.lower().encode() for color in named]

    def settings(self) -> Any:
        """Returns the theme's Matplotlib settings."""
        return {
            "figure.facecolor": self.surface,
            "savefig.facecolor": self.surface,
            "axes.facecolor": self.surface,
            "axes.edgecolor": self.ink,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.titlesize": 9,
            "text.parse_math": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=self.colors),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": self.grid,
            "grid.linewidth": 0.6,
            "text.color": self.ink,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
            "font.size": 9,
            "legend.frameon": False,
            "legend.fontsize": _LEGEND_SIZE,
            "lines.linewidth": 1.6,
            "lines.markersize": 5,
            "svg.fonttype": "path",
            # Makes the ids in an SVG deterministic.
            "svg.hashsalt": "bat_jax",
        }


LIGHT = Theme(ink="#1c2024", surface="#ffffff", grid="#dfe3e8", colors=_ON_LIGHT)
DARK = Theme(ink="#e6e9ed", surface="#1a1e23", grid="#353c45", colors=_ON_DARK)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure, drawn when a page is written.

    Attributes:
      name: the name of its files.
      title: the heading above it.
      alt: the alternative text for readers who cannot see it.
      caption: the text below it.
      draw: draws the chart into an empty figure.
      height: the height in inches; a long legend adds to it.
    """

    name: str
    title: str
    alt: str
    caption: str
    draw: Callable[[Figure], None]
    height: float = 2.9


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The files of a chart: SVG in both themes, and a light PNG.

    Attributes:
      light: the SVG on a light surface.
      dark: the SVG on a dark surface.
      png: the PNG on a light surface.
      boxes: characters that the font lacks, which are drawn as boxes.
    """

    light: bytes
    dark: bytes
    png: bytes
    boxes: frozenset[str]


def scatter(axes: Axes, x: Any, y: Any, *, color: str = "C0") -> None:
    """Draws a point per image, as a picture: large sets have too many for vector graphics."""
    axes.plot(x, y, "o", color=color, markersize=2.5, alpha=0.5, rasterized=True)


def render(chart: Chart) -> Drawn:
    """Draws a chart once and returns its files."""
    defaults = matplotlib.rcParamsDefault
    ours = {name: defaults[name] for name in defaults if not _NOT_OF_FIGURES.match(name)}
    # Restores the user's settings afterwards; the figure is not registered with pyplot.
    with matplotlib.rc_context(rc={**ours, **LIGHT.settings()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        figure = Figure(figsize=(_WIDTH, chart.height), layout="constrained")
        chart.draw(figure)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", dpi=200, metadata={"Date": None})
        # Both files have the same layout, half the cost of a figure.
        figure.set_layout_engine("none")
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        texts = "".join(text.get_text() for text in figure.findobj(Text))
        boxes = {c for c in texts if c.isprintable() and not _font().get_char_index(ord(c))}
    light = svg.getvalue()
    return Drawn(light, _darkened(light), png.getvalue(), frozenset(boxes))


def _darkened(svg: bytes) -> bytes:
    """Replaces the colours of the light theme in an SVG by those of the dark one."""
    dark = dict(zip(LIGHT.palette(), DARK.palette(), strict=True))
    return _HEX.sub(lambda found: dark.get(found[0].lower(), found[0]), svg)


def line(number: int) -> dict[str, Any]:
    """Returns the colour and dash pattern of a chart's line `number`."""
    size = len(_DASHES)
    return {"color": f"C{number % size}", "linestyle": _DASHES[(number + number // size) % size]}


def point(number: int) -> dict[str, Any]:
    """Returns the colour and marker of a chart's points `number`."""
    size = len(_MARKERS)
    return {"color": f"C{number % size}", "marker": _MARKERS[(number + number // size) % size]}


def legend(figure: Figure, entries: Sequence[tuple[Any, str]]) -> None:
    """Puts a legend above the axes, where it covers nothing.

    Args:
      figure: the figure, which grows to fit a long legend.
      entries: artists of the axes, as Matplotlib returned them, with their names.
    """
    if not entries:
        return
    columns = 2 if all(_width(name, _LEGEND_SIZE) < 1.4 for _, name in entries) else 1
    names = [fitted(name, inches=3.2 / columns, size=_LEGEND_SIZE, lines=2) for _, name in entries]
    # Matplotlib omits names that begin with an underscore, so they are set afterwards.
    drawn = figure.legend(
        [artist for artist, _ in entries],
        [" "] * len(entries),
        loc="outside upper center",
        ncols=columns,
    )
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)
    lines = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * max(0, lines - 3))


def logarithmic(axes: Axes) -> None:
    """Makes the y axis logarithmic, its labels plain numbers rather than mathematics."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def fitted(text: str, *, inches: float, size: float, lines: int = 1) -> str:
    """Wraps a text to a width, and cuts the middle if it takes too many lines.

    Args:
      text: literal text; control characters become spaces.
      inches: the width of a line.
      size: the font size in points.
      lines: the maximum number of lines.
    """
    text = _HALF.sub("\N{REPLACEMENT CHARACTER}", _CONTROL.sub(" ", text))
    kept = min(len(text), 200 * lines)
    short = text
    while True:
        if kept < len(text):
            short = (
                f"{text[: kept - kept // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - kept // 2 :]}"
            )
        found = _wrapped(short, inches, size)
        if len(found) <= lines or kept <= 2:
            return "\n".join(found)
        kept -= 1


def fitted_lines(text: str, *, inches: float, size: float) -> str:
    """Cuts each line of a text to a width."""
    return "\n".join(fitted(line, inches=inches, size=size) for line in text.split("\n"))


def _wrapped(text: str, inches: float, size: float) -> list[str]:
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if _width(joined, size) <= inches:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and _width(lines[-1] + character, size) > inches:
                lines.append("")
            lines[-1] += character
    return lines


def _width(text: str, size: float) -> float:
    """Returns the width of a text in inches."""
    return sum(map(_advance, text)) * size / 72


@functools.cache
def _advance(character: str) -> float:
    """Returns the width of a character in units of the font size."""
    font = _font()
    font.set_size(100, 72)
    return font.load_glyph(font.get_char_index(ord(character))).linearHoriAdvance / 65536 / 100


@functools.cache
def _font() -> Any:
    name = matplotlib.rcParamsDefault["font.sans-serif"][0]
    return font_manager.get_font(font_manager.findfont(name))
