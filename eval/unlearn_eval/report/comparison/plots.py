"""Pictures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unlearn_eval.comparison.contests import Contest
from unlearn_eval.comparison.lines import TableLine
from unlearn_eval.report.svg import COLOURS, INK, WIDE, draw, only_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ranks", "trade_off"]

_LEAST = 1e-3  # nats a token: what is less, or a gain, is drawn here
_AREA = 130.0  # points² of a dot at the price of retraining
_DEAREST, _CHEAPEST = 4.0, 0.06  # shares of retraining beyond which dots grow and shrink no more

# Where a name may stand beside its dot, in the order of preference.
_PLACES = (
    ("left", "center", 1, 0),
    ("right", "center", -1, 0),
    ("center", "bottom", 0, 1),
    ("center", "top", 0, -1),
    ("left", "bottom", 0.7, 0.7),
    ("left", "top", 0.7, -0.7),
    ("right", "bottom", -0.7, 0.7),
    ("right", "top", -0.7, -0.7),
)


def trade_off(
    name: str, lines: Sequence[TableLine], reach: dict[str, float], width: float = WIDE
) -> str:
    """Draw forgetting against utility, a dot a method, the larger the dearer.

    Args:
        name: unique among the pictures of a page.
        lines: the methods and the references.
        reach: by measure, how far references lie from each other.
        width: in inches.

    Returns:
        SVG.
    """
    shown = [line for line in lines if "gap" in line.mean and "rise" in line.mean]
    methods = [line for line in shown if line.kind == "after"]
    rises = [max(line.mean["rise"], _LEAST) for line in shown]
    right = max([1.0, *rises]) * 2.2
    top = max([0.1, *(line.mean["gap"] for line in shown), reach.get("gap", 0.0)]) * 1.12
    wide = width > WIDE

    def paint(ax: Axes) -> None:
        ax.set(xscale="log", xlim=(_LEAST / 1.7, right), ylim=(-0.045 * top, top))
        if "gap" in reach:
            edge = max(reach.get("rise", 0.0), _LEAST * 1.5)
            ax.fill_between(
                [_LEAST / 1.7, edge],
                -0.045 * top,
                reach["gap"],
                color=COLOURS["reference"],
                alpha=0.18,
                linewidth=0,
            )
        for line in sorted(shown, key=_area, reverse=True):  # small ones on top
            reference = line.kind == "reference"
            colour = COLOURS[line.kind]
            ax.scatter(
                [max(line.mean["rise"], _LEAST)],
                [line.mean["gap"]],
                s=_area(line),
                marker="D" if reference else "s" if line.kind == "before" else "o",
                facecolor=colour if line.front or line.kind != "after" else "none",
                edgecolor=colour,
                linewidth=1.3,
                alpha=0.85,
                clip_on=False,
            )
        # those on the front must be named, the others as far as there is room
        order = [line for line in shown if line.kind != "after"]
        order += sorted(methods, key=lambda line: (not line.front, line.mean["gap"]))
        _name(ax, order)
        ticks = [t for t in (1e-3, 1e-2, 0.1, 1.0, 10.0) if t <= right]
        ax.set_xticks(ticks, ["≤ .001", ".01", ".1", "1", "10"][: len(ticks)])
        ax.minorticks_off()
        if wide:
            ax.set_xlabel("rest kept ← rise of its loss, nats a token → damaged")
        else:
            ax.set_xlabel("rise of the rest's loss, nats a token")
        ax.set_ylabel("distance of the attacker's AUC" if wide else "attacker's distance")

    return draw(name, 0.62 * width if wide else 3.6, paint, width=width)


def _area(line: TableLine) -> float:
    share = line.mean.get("wall_share", 1.0 if line.kind == "reference" else _CHEAPEST)
    if line.kind != "after":
        return 42.0
    return _AREA * min(max(share, _CHEAPEST), _DEAREST)


def _name(ax: Axes, lines: Sequence[TableLine]) -> None:
    """Write names beside the dots, none over another or over a dot; some may find no room."""
    figure: Any = ax.figure
    figure.draw_without_rendering()  # the layout settles what a point is in pixels
    points = {
        line.name: ax.transData.transform((max(line.mean["rise"], _LEAST), line.mean["gap"]))
        for line in lines
    }
    scale = figure.dpi / 72
    inside = ax.get_window_extent()
    radii = {line.name: scale * math.sqrt(_area(line) / math.pi) for line in lines}
    taken = [
        _box(x, y, 1.7 * radii[name], 1.7 * radii[name], "center", "center")
        for name, (x, y) in points.items()
    ]
    for line in lines:
        size = 10.0
        wide = 0.66 if line.front else 0.58  # of a letter, on average, in parts of its size
        w, h = wide * size * scale * len(line.name), 1.1 * size * scale
        x, y = points[line.name]
        away = radii[line.name] + 2.5 * scale
        for horizontal, vertical, dx, dy in _PLACES:
            box = _box(x + dx * away, y + dy * away, w, h, horizontal, vertical)
            free = not any(_overlap(box, other) for other in taken)
            if free and box[0] > inside.x0 and box[2] < inside.x1 + 4 and box[3] < inside.y1 + 9:
                taken.append(box)
                ax.annotate(
                    line.name,
                    (max(line.mean["rise"], _LEAST), line.mean["gap"]),
                    xytext=(dx * away / scale, dy * away / scale),
                    textcoords="offset points",
                    ha=horizontal,
                    va=vertical,
                    fontsize=size,
                    fontweight="bold" if line.front else "normal",
                    color=INK,
                )
                break


Box = tuple[float, float, float, float]


def _box(x: float, y: float, w: float, h: float, horizontal: str, vertical: str) -> Box:
    left = x - {"left": 0.0, "center": w / 2, "right": w}[horizontal]
    low = y - {"bottom": 0.0, "center": h / 2, "top": h}[vertical]
    return left, low, left + w, low + h


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def ranks(name: str, contest: Contest) -> str:
    """Draw mean ranks, a row a method, with the critical difference.

    Methods within the critical difference of the best, filled, cannot be told from it.

    Args:
        name: unique among the pictures of a page.
        contest: the contest.

    Returns:
        SVG.
    """
    values = [float(rank) for rank in contest.ranking.ranks]
    difference = contest.ranking.difference

    def paint(ax: Axes) -> None:
        best = min(values)
        rows = range(len(values))
        ax.axvspan(best, best + difference, color=COLOURS["reference"], alpha=0.18, linewidth=0)
        for row, value in zip(rows, values, strict=True):
            near = value <= best + difference
            ax.plot([0.5, value], [row, row], color=INK, linewidth=0.7, alpha=0.35)
            ax.plot(
                [value],
                [row],
                "o",
                color=COLOURS["after"],
                markerfacecolor=COLOURS["after"] if near else "none",
                markersize=6.5,
                clip_on=False,
            )
        ax.set_yticks(rows, contest.methods)
        ax.set_ylim(len(values) - 0.5, -0.5)
        ax.set_xlim(0.5, max(len(values) + 0.5, min(best + difference, len(values) * 1.3)))
        only_columns(ax)
        ax.set_xlabel(f"mean rank; band: critical difference {difference:.1f}")

    return draw(name, 0.26 * len(values) + 0.75, paint)
