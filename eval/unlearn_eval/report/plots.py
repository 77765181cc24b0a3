"""Pictures of an audit as inline SVG: text stays text, and colours follow the page's theme.

Matplotlib draws with stand-in colours, which are replaced by the page's CSS variables, so that one
drawing serves the light and the dark page and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn_eval._arrays import FloatArray
from unlearn_eval._table import AuditRow
from unlearn_eval.extraction.discoverable import CHANCE, log_prob_of_target, tries_needed
from unlearn_eval.extraction.secret import has_secret, log_prob_of_secret
from unlearn_eval.report.reading import Reading
from unlearn_eval.statistics import proportion_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["costs", "extraction", "roc", "scores", "tradeoff"]

# Stand-ins: colours nobody would draw with, each for one variable of the style sheet.
_INK, _LINE, _PAPER = "#010203", "#010204", "#010205"
_COLOURS = {"before": "#010206", "after": "#010207", "reference": "#010208", "base": "#010209"}
_VARIABLES = {
    _INK: "ink",
    _LINE: "line",
    _PAPER: "paper",
    **{colour: state for state, colour in _COLOURS.items()},
}
_MARKERS = {"before": "s", "after": "o", "reference": "D", "base": "^"}
_WIDTH = 4.6
_LABEL_GAP = 0.075  # of the height of the axes, between labels of points
_POINTS_OF_ONE = 158.0  # height of the axes of `tradeoff`, in points for one unit
_DOTS = 120  # of one split in one strip; more would be a smear

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _LINE,
}


def _draw(name: str, height: float, paint: Callable[[Axes], None]) -> str:
    """Draw one picture and return it as SVG for a page.

    Args:
        name: unique among the pictures of a page; part of every id in the drawing.
        height: in inches; every picture is 4.6 wide.
        paint: draws on the axes.

    Returns:
        An `<svg>` element without size, so that it fills its place.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
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


def _kind(state: str) -> str:
    return "reference" if state.startswith("reference:") else state


def _thin(values: FloatArray) -> FloatArray:
    """Return at most `_DOTS` values that are spread as all of them are."""
    if len(values) <= _DOTS:
        return values
    return np.quantile(values, (np.arange(_DOTS) + 0.5) / _DOTS)


def scores(reading: Reading) -> str:
    """Draw every record's mean loss before, after, and under a reference, split by split.

    Args:
        reading: the audit.

    Returns:
        SVG.
    """
    states = [s for s in ("before", "after", *reading.references[:1]) if reading.has(s)]
    names = {"retain": "to keep", "forget": "to forget", "holdout": "never seen"}
    strips = [
        (state, split, values)
        for state in states
        for split in names
        if (values := reading.losses(state, split)) is not None
    ]

    def paint(ax: Axes) -> None:
        rng = np.random.default_rng(0)  # jitter, so that equal values do not hide each other
        place, ticks, labels = 0.0, [], []
        last = None
        for state, split, values in strips:
            place -= 1.0 if state == last else 1.6
            title = {"before": "before", "after": "after"}.get(state, "reference")
            if state != last:
                ax.text(
                    0.0,
                    place + 0.62,
                    {"reference": "reference (never saw them)"}.get(title, title),
                    transform=ax.get_yaxis_transform(),
                    fontweight="bold",
                    va="bottom",
                )
            last = state
            shown = _thin(values[np.isfinite(values)])
            strong = split == "forget"
            ax.plot(
                shown,
                place + rng.uniform(-0.24, 0.24, len(shown)),
                _MARKERS[_kind(state)],
                color=_COLOURS[_kind(state)] if strong else _INK,
                markersize=3.6 if strong else 2.6,
                alpha=0.8 if strong else 0.3,
                markeredgewidth=0,
            )
            if shown.size:
                middle = float(np.median(values))
                ax.plot([middle, middle], [place - 0.36, place + 0.36], color=_INK, linewidth=1.4)
            ticks.append(place)
            labels.append(names[split])
        ax.set_yticks(ticks, labels)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.set_ylim(place - 0.6, -0.3)
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
        ax.set_xlabel("knows it by heart ← loss, nats a token → surprised")

    return _draw("scores", 0.35 * len(strips) + 0.9, paint)


def roc(reading: Reading) -> str:
    """Draw the ROC of the strongest attack for each state, both axes logarithmic.

    Args:
        reading: the audit, with a strongest attack.

    Returns:
        SVG.
    """
    attack = reading.strongest
    assert attack is not None
    curves = []
    for state in reversed(list(reading.audit.states)):
        pair = reading.attack_scores(attack, state)
        if pair is not None:
            curves.append((state, *pair))
    smallest = min(1 / len(other) for _, _, other in curves)
    least = min(1 / len(member) for _, member, _ in curves)

    def paint(ax: Axes) -> None:
        named = set()
        floor = min(smallest, least)
        for state, member, other in curves:
            kind = _kind(state)
            x, y = _roc_points(member, other)
            ax.step(
                np.maximum(x, floor / 2),
                np.maximum(y, floor / 2),
                where="post",
                color=_COLOURS[kind],
                linewidth=1.0 if kind == "reference" else 1.8,
                linestyle={"before": "--", "base": ":"}.get(kind, "-"),
                label=None if kind in named else _label(kind, len(reading.references)),
            )
            named.add(kind)
        ax.plot([floor / 2, 1], [floor / 2, 1], color=_LINE, linewidth=1)
        ax.set(xscale="log", yscale="log", xlim=(floor * 0.8, 1.1), ylim=(floor * 0.8, 1.1))
        ax.set_xlabel("unseen records wrongly named (false positive rate)")
        ax.set_ylabel("forgotten records named")
        ax.legend(loc="lower right")

    return _draw("roc", 3.1, paint)


def _label(kind: str, references: int) -> str:
    if kind == "reference":
        return "references" if references > 1 else "reference"
    return {"base": "base model"}.get(kind, kind)


def _roc_points(member: FloatArray, other: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return (false, true) positive rate at every threshold, from (0, 0) to (1, 1)."""
    cuts = np.unique(np.concatenate([member, other]))[::-1]
    above = [np.searchsorted(np.sort(v), cuts, side="left") for v in (other, member)]
    x, y = (1 - a / len(v) for a, v in zip(above, (other, member), strict=True))
    return np.concatenate([[0.0], x]), np.concatenate([[0.0], y])


def extraction(reading: Reading) -> str:
    """Draw the share of records that n tries probably bring, against n: the n–p curve.

    Args:
        reading: the audit.

    Returns:
        SVG.
    """
    n = np.logspace(0, 6, 121)
    secrets = bool(has_secret(reading.audit.scores["after"]["forget"]).any())

    def paint(ax: Axes) -> None:
        named = set()
        for state in reversed([s for s in reading.audit.states if s != "base"]):
            kind, matrix = _kind(state), reading.audit.scores[state]["forget"]
            tries = tries_needed(log_prob_of_target(matrix), CHANCE)
            style: dict[str, Any] = {"color": _COLOURS[kind]}
            if kind == "reference":
                style |= {"linewidth": 1.0}
            label = None if kind in named else _label(kind, len(reading.references))
            ax.plot(n, _reached(tries, n), label=label, **style)
            if state == "after":
                _band(ax, tries, n, _COLOURS[kind])
            if secrets:
                part = matrix.take(has_secret(matrix))
                ax.plot(
                    n,
                    _reached(tries_needed(log_prob_of_secret(part), CHANCE), n),
                    linestyle=(0, (4, 2)),
                    **style,
                )
            named.add(kind)
        if secrets:
            ax.plot([], [], color=_INK, label="whole record")
            ax.plot([], [], color=_INK, linestyle=(0, (4, 2)), label="its sensitive value")
        ax.set(xscale="log", xlim=(1, 1e6), ylim=(-0.03, 1.03))
        ax.set_xlabel("tries n")
        ax.set_ylabel("share of records got out")
        # outside the axes: curves may run anywhere
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2)

    return _draw("extraction", 3.1, paint)


def _reached(tries: FloatArray, n: FloatArray) -> FloatArray:
    return np.searchsorted(np.sort(tries), n, side="right") / max(1, len(tries))


def _band(ax: Axes, tries: FloatArray, n: FloatArray, colour: str) -> None:
    """Shade the exact 95 % interval of the share at each number of tries."""
    counts = np.searchsorted(np.sort(tries), n, side="right")
    limits = {}
    for count in np.unique(counts):
        hits = np.arange(len(tries)) < count
        found = proportion_interval(hits)
        limits[count] = (found.low, found.high)
    low, high = np.array([limits[c] for c in counts]).T
    ax.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)


def tradeoff(points: Sequence[tuple[str, str, AuditRow, AuditRow]], expected: float) -> str:
    """Draw forgetting against retained utility, a point a state, with intervals.

    Args:
        points: (label, kind of state, utility, AUC of the attack) of each.
        expected: the AUC that forgetting would give.

    Returns:
        SVG.
    """

    def paint(ax: Axes) -> None:
        ax.axhline(expected, color=_COLOURS["reference"], linewidth=0.8, linestyle=":")
        for _, kind, utility, auc in points:
            x, y = _estimate(utility), _estimate(auc)
            ax.errorbar(
                [x[0]],
                [y[0]],
                xerr=[[x[1]], [x[2]]],
                yerr=[[y[1]], [y[2]]],
                fmt=_MARKERS[kind],
                color=_COLOURS[kind],
                markersize=6,
                elinewidth=1,
                alpha=0.9,
            )
        for label, left, height, at in _label_places(points):
            right = left < 0.5
            ax.annotate(
                label,
                (left, height),
                xytext=(8 if right else -8, (at - height) * _POINTS_OF_ONE),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
            )
        ax.set(xlim=(-0.05, 1.08), ylim=(-0.05, 1.05))
        ax.set_xlabel("records to keep: share of tokens still known")
        ax.set_ylabel("attack's AUC")

    return _draw("tradeoff", 3.1, paint)


def _label_places(
    points: Sequence[tuple[str, str, AuditRow, AuditRow]],
) -> list[tuple[str, float, float, float]]:
    """Return (label, x, y, height of the label), moved apart where labels would collide."""
    first: dict[str, tuple[float, float]] = {}
    for label, _, utility, auc in points:
        first.setdefault(label, (_estimate(utility)[0], _estimate(auc)[0]))
    found: list[tuple[str, float, float, float]] = []
    for side in (True, False):  # labels of the left half are on the right, and the other way
        at = 2.0
        mine = [(place[1], place[0], label) for label, place in first.items()]
        for y, x, label in sorted(mine, reverse=True):
            if (x < 0.5) != side:
                continue
            at = min(y, at - _LABEL_GAP)
            found.append((label, x, y, max(at, 0.0)))
    return found


def _estimate(row: AuditRow) -> tuple[float, float, float]:
    """Return a value and the lengths of its error bars."""
    assert row.value is not None
    low = row.value if row.low is None else row.low
    high = row.value if row.high is None else row.high
    return row.value, max(0.0, row.value - low), max(0.0, high - row.value)


def costs(shares: Mapping[str, tuple[float, str]]) -> str:
    """Draw costs as bars, retraining being 1.

    Args:
        shares: by label, the cost relative to retraining and the cost in words.

    Returns:
        SVG.
    """

    def paint(ax: Axes) -> None:
        labels = list(shares)
        values = [shares[label][0] for label in labels]
        kinds = ["reference" if label == "retraining" else "after" for label in labels]
        ax.barh(labels, values, color=[_COLOURS[kind] for kind in kinds], height=0.6, alpha=0.85)
        for i, label in enumerate(labels):
            share, words = shares[label]
            ax.annotate(
                f"{words} ({share:.2g} ×)" if label != "retraining" else words,
                (share, i),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        ax.invert_yaxis()
        ax.set_xlim(0, 1.45 * max(1.0, *values))
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("training time, retraining = 1")

    return _draw("costs", 0.42 * len(shares) + 0.9, paint)
