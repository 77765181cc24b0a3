"""Draw one picture as inline SVG: text stays text, and colours follow the page's theme.

Matplotlib draws with stand-in colours, which are replaced by the page's CSS variables, so that one
drawing serves the light and the dark page and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["COLOURS", "INK", "MARKERS", "NARROW", "WIDE", "draw", "in_percent", "only_columns"]

# Stand-ins: colours nobody would draw with, each for one variable of the style sheet.
INK, _LINE, _PAPER = "#010203", "#010204", "#010205"
COLOURS = {"before": "#010206", "after": "#010207", "reference": "#010208", "base": "#010209"}
_VARIABLES = {
    INK: "ink",
    _LINE: "line",
    _PAPER: "paper",
    **{colour: state for state, colour in COLOURS.items()},
}
MARKERS = {"before": "s", "after": "o", "reference": "D", "base": "^"}
WIDE, NARROW = 4.1, 3.3  # inches; the less, the larger the text in a given place

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": _LINE,
}


def draw(name: str, height: float, *paints: Callable[[Axes], None], width: float = WIDE) -> str:
    """Draw one picture and return it as SVG for a page.

    Args:
        name: unique among the pictures of a page; part of every id in the drawing.
        height: in inches.
        *paints: each draws on axes of its own, one below the other.
        width: in inches.

    Returns:
        An `<svg>` element without size, so that it fills its place.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        for i, paint in enumerate(paints):
            paint(figure.add_subplot(len(paints), 1, i + 1))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Cut a stand-alone SVG file down to an element of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    return re.sub(r"\n\s*", "\n", svg.replace("<svg", '<svg aria-hidden="true"', 1)).strip()


def only_columns(ax: Axes) -> None:
    """Take away the axis of rows, which would cut through what lies at its end."""
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


def in_percent(axis: Axis) -> None:
    """Write shares as percentages."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g}%"))
    axis.set_minor_formatter(NullFormatter())
