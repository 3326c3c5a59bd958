"""How every figure looks: colours that colour-blind readers tell apart, on light and on dark."""

import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# After Okabe & Ito, Color Universal Design, 2008. Charts name them C0, C1, ...
_ON_LIGHT = ("#0072B2", "#D98E00", "#009E73", "#D55E00", "#3C9FD9", "#CC79A7", "#7F7F7F", "#9C9200")
_ON_DARK = ("#4BA6E3", "#E69F00", "#1FC795", "#F2803A", "#8ED0F5", "#DE9CC0", "#A9A9A9", "#F0E442")
# Beside its colour every series has a marker and a dash of its own.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    ink: str
    surface: str
    grid: str
    colors: tuple[str, ...]

    def settings(self) -> Any:
        """Returns Matplotlib's settings for it."""
        return {
            "figure.facecolor": self.surface,
            "savefig.facecolor": self.surface,
            "axes.facecolor": self.surface,
            "axes.edgecolor": self.ink,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.titlesize": 9,
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
            "legend.fontsize": 8,
            "lines.linewidth": 1.6,
            "lines.markersize": 5,
            "svg.fonttype": "path",
            # Names inside an SVG follow from it, not from chance.
            "svg.hashsalt": "bat_jax",
        }


LIGHT = Theme(ink="#1c2024", surface="#ffffff", grid="#dfe3e8", colors=_ON_LIGHT)
DARK = Theme(ink="#e6e9ed", surface="#1a1e23", grid="#353c45", colors=_ON_DARK)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure that is drawn when a page is written, once a theme.

    Attributes:
      name: of its files.
      title: above it on the page.
      alt: what it shows, in words, for those who do not see it.
      caption: below it.
      draw: draws it into an empty figure.
      height: in inches; every figure is four inches wide, as a phone shows it.
    """

    name: str
    title: str
    alt: str
    caption: str
    draw: Callable[[Figure], None]
    height: float = 2.9


def render(chart: Chart, theme: Theme, kind: Literal["svg", "png"]) -> bytes:
    """Returns the chart as a file of that kind."""
    # The settings before come back after; a figure that no canvas of pyplot owns.
    with matplotlib.rc_context(rc=theme.settings()):
        figure = Figure(figsize=(4.0, chart.height), layout="constrained")
        chart.draw(figure)
        buffer = io.BytesIO()
        metadata: Mapping[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Puts the axes' legend above them, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper center", ncols=columns)
