"""Pictures of an audit. Nothing here knows of pages; see `_svg` for how a drawing gets there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn_eval.arrays import FloatArray
from unlearn_eval.extraction.discoverable import CHANCE, log_prob_of_target, tries_needed
from unlearn_eval.extraction.secret import has_secret, log_prob_of_secret
from unlearn_eval.report.audit.reading import Game, Reading
from unlearn_eval.report.formats import percent
from unlearn_eval.report.svg import (
    COLOURS,
    INK,
    MARKERS,
    NARROW,
    WIDE,
    draw,
    in_percent,
    only_columns,
)
from unlearn_eval.statistics import auc, proportion_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NARROW", "Mark", "Panel", "costs", "extraction", "panels", "roc", "scores"]

_ORDER = ("reference", "base", "after", "before")  # what is drawn later lies on top
_DOTS = 120  # of one split in one strip; more would be a smear


@dataclass(frozen=True)
class Mark:
    """One value in a `Panel`.

    Attributes:
        kind: of state: `before`, `after`, `reference`, `base`.
        value: a share.
        low: lower limit, None if there is none.
        high: upper limit.
    """

    kind: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """Shares side by side, a row a label.

    Attributes:
        title: what the share is.
        rows: by label, from top to bottom, the values in that row.
        aim: what forgetting would give, from and to; None where nothing is to aim at.
        limits: ends of the axis.
    """

    title: str
    rows: Mapping[str, Sequence[Mark]]
    aim: tuple[float, float] | None
    limits: tuple[float, float]


def _kind(state: str) -> str:
    return "reference" if state.startswith("reference:") else state


def _thin(values: FloatArray) -> FloatArray:
    """Return at most `_DOTS` values that are spread as all of them are."""
    if len(values) <= _DOTS:
        return values
    return np.quantile(values, (np.arange(_DOTS) + 0.5) / _DOTS)


def scores(reading: Reading) -> str:
    """Draw every record's mean loss before, after, and under a reference, split by split."""
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
            place -= 1.0 if state == last else 2.1
            if state != last:
                ax.annotate(
                    "retrained (never saw them)" if _kind(state) == "reference" else state,
                    (0.0, place + 0.62),
                    xytext=(6, 0),
                    textcoords="offset points",
                    xycoords=ax.get_yaxis_transform(),
                    fontweight="bold",
                    va="bottom",
                )
            last = state
            shown = _thin(values[np.isfinite(values)])
            strong = split == "forget"
            ax.plot(
                shown,
                place + rng.uniform(-0.24, 0.24, len(shown)),
                MARKERS[_kind(state)],
                color=COLOURS[_kind(state)] if strong else INK,
                markersize=3.6 if strong else 2.6,
                alpha=0.8 if strong else 0.3,
                markeredgewidth=0,
            )
            if shown.size:
                middle = float(np.median(values))
                ax.plot([middle, middle], [place - 0.36, place + 0.36], color=INK, linewidth=1.4)
            ticks.append(place)
            labels.append(names[split])
        ax.set_yticks(ticks, labels)
        only_columns(ax)
        ax.set_ylim(place - 0.6, -0.6)
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
        ax.set_xlabel("known by heart ← loss, nats a token → surprising")

    return draw("scores", 0.29 * (len(strips) + len(states)) + 0.9, paint)


def roc(reading: Reading, game: Game) -> str:
    """Draw the ROC of an attack for each state, both axes logarithmic.

    Where the attack ranks unseen records higher than forgotten ones, its scores are negated: the
    attacker may bet either way.
    """
    order = sorted(reading.audit.states, key=lambda s: _ORDER.index(_kind(s)))
    curves = []
    for state in order:
        pair = reading.attack_scores(game.attack, state)
        if pair is not None:
            member, other = (side.values for side in pair)
            turn = 1.0 if auc(member, other) >= 0.5 else -1.0
            curves.append((state, turn * member, turn * other))
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
                color=COLOURS[kind],
                linewidth=1.0 if kind == "reference" else 1.8,
                linestyle={"before": "--", "base": ":"}.get(kind, "-"),
                label=None if kind in named else _label(kind, len(reading.references)),
            )
            named.add(kind)
        ends = [floor / 2, 1]
        ax.plot(ends, ends, color=INK, alpha=0.5, linewidth=1, linestyle=":", label="guessing")
        # wide enough that a curve along the edge is seen
        ax.set(xscale="log", yscale="log", xlim=(floor * 0.42, 1.2), ylim=(floor * 0.42, 1.2))
        in_percent(ax.xaxis)
        in_percent(ax.yaxis)
        ax.set_xlabel("unseen records wrongly named")
        ax.set_ylabel("forgotten records named")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2)

    return draw("roc", 3.3, paint)


def _label(kind: str, references: int) -> str:
    many = f" ({references})" if references > 1 else ""
    return {"base": "base model", "reference": f"retrained{many}"}.get(kind, kind)


def _roc_points(member: FloatArray, other: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return (false, true) positive rate at every threshold, from (0, 0) to (1, 1)."""
    cuts = np.unique(np.concatenate([member, other]))[::-1]
    above = [np.searchsorted(np.sort(v), cuts, side="left") for v in (other, member)]
    x, y = (1 - a / len(v) for a, v in zip(above, (other, member), strict=True))
    return np.concatenate([[0.0], x]), np.concatenate([[0.0], y])


def extraction(reading: Reading) -> str:
    """Draw the share of records that n tries probably bring, against n: the n–p curve."""
    n = np.logspace(0, 6, 121)
    secrets = bool(has_secret(reading.audit.scores["after"]["forget"]).any())

    def paint(ax: Axes) -> None:
        named = set()
        for state in reversed([s for s in reading.audit.states if s != "base"]):
            kind, matrix = _kind(state), reading.audit.scores[state]["forget"]
            tries = tries_needed(log_prob_of_target(matrix), CHANCE)
            style: dict[str, Any] = {"color": COLOURS[kind]}
            if kind == "reference":
                style |= {"linewidth": 1.0}
            label = None if kind in named else _label(kind, len(reading.references))
            ax.plot(n, _reached(tries, n), label=label, **style)
            if state == "after":
                _band(ax, tries, n, COLOURS[kind])
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
            ax.plot([], [], color=INK, label="whole record")
            ax.plot([], [], color=INK, linestyle=(0, (4, 2)), label="its sensitive value")
        ax.set(xscale="log", xlim=(1, 1e6), ylim=(-0.03, 1.03))
        ax.set_xticks([1, 100, 10_000, 1_000_000], ["1", "100", "10,000", "1,000,000"])
        ax.xaxis.get_ticklabels()[-1].set_horizontalalignment("right")
        in_percent(ax.yaxis)
        ax.set_xlabel("random answers n")
        ax.set_ylabel("records that appear")
        # outside the axes: curves may run anywhere
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2)

    return draw("extraction", 3.3, paint)


def _reached(tries: FloatArray, n: FloatArray) -> FloatArray:
    return np.searchsorted(np.sort(tries), n, side="right") / max(1, len(tries))


def _band(ax: Axes, tries: FloatArray, n: FloatArray, colour: str) -> None:
    """Shade the exact 95 % interval of the share at each number of tries."""
    counts = np.searchsorted(np.sort(tries), n, side="right")
    limits = {}
    for count in np.unique(counts):
        hits = np.arange(len(tries)) < count
        interval = proportion_interval(hits)
        limits[count] = (interval.low, interval.high)
    low, high = np.array([limits[c] for c in counts]).T
    ax.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)


def panels(name: str, shown: Sequence[Panel], width: float = WIDE) -> str:
    """Draw shares with intervals, a row a label, one panel below the other.

    Args:
        name: unique among the pictures of a page.
        shown: the panels.
        width: in inches.

    Returns:
        SVG.
    """

    def paint(panel: Panel) -> Callable[[Axes], None]:
        def on(ax: Axes) -> None:
            if panel.aim:
                middle = sum(panel.aim) / 2
                half = max((panel.aim[1] - panel.aim[0]) / 2, 0.004)  # a line, if there is one
                colour = COLOURS["reference"]
                ax.axvspan(middle - half, middle + half, color=colour, alpha=0.18, linewidth=0)
            for i, marks in enumerate(panel.rows.values()):
                for mark in marks:
                    low = mark.value if mark.low is None else min(mark.low, mark.value)
                    high = mark.value if mark.high is None else max(mark.high, mark.value)
                    ax.errorbar(
                        [mark.value],
                        [i],
                        xerr=[[mark.value - low], [high - mark.value]],
                        fmt=MARKERS[mark.kind],
                        color=COLOURS[mark.kind],
                        markersize=6.5,
                        elinewidth=1.6,
                        clip_on=False,
                    )
            ax.set_yticks(range(len(panel.rows)), list(panel.rows))
            ax.set_ylim(len(panel.rows) - 0.5, -0.5)
            least, most = panel.limits
            edge = 0.04 * (most - least)  # so that marks at the ends keep off the labels
            ax.set_xlim(least - edge, most + edge)
            ax.set_xticks([least, (least + most) / 2, most])
            ax.spines["bottom"].set_bounds(least, most)
            in_percent(ax.xaxis)
            only_columns(ax)
            ax.set_xlabel(panel.title)

        return on

    height = sum(0.32 * len(panel.rows) + 0.62 for panel in shown)
    return draw(name, height, *map(paint, shown), width=width)


def costs(shares: Mapping[str, tuple[float, str]], width: float = WIDE) -> str:
    """Draw costs as bars, retraining being 1.

    Args:
        shares: by label, the cost relative to retraining and the cost in words.
        width: in inches.

    Returns:
        SVG.
    """

    def paint(ax: Axes) -> None:
        labels = list(shares)
        values = [shares[label][0] for label in labels]
        kinds = ["reference" if label == "retraining" else "after" for label in labels]
        ax.barh(labels, values, color=[COLOURS[kind] for kind in kinds], height=0.6, alpha=0.85)
        for i, label in enumerate(labels):
            share, words = shares[label]
            ax.annotate(
                words if label == "retraining" else f"{words}, {percent(share)}",
                (share, i),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        ax.invert_yaxis()
        ax.set_xlim(0, (1.2 + 1.0 / width) * max(1.0, *values))
        if max(values) < 2:
            ax.set_xticks([0, 0.5, 1])
        in_percent(ax.xaxis)
        only_columns(ax)
        ax.set_xlabel("training time, against retraining")

    return draw("costs", 0.32 * len(shares) + 0.62, paint, width=width)
