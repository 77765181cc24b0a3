"""Training curves as small drawings: a line a run, with the same in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unlearn_eval.comparison.details import Curve, Run

__all__ = ["in_words", "objective_curves", "record_curves"]

_WIDTH, _HEIGHT = 330.0, 185.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 38.0
_TICKS = 5
_LEGEND = 18.0
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "12 4")  # runs differ by more than colour


def objective_curves(runs: Sequence[Run]) -> str:
    """Draw the loss that each run minimised over its steps.

    Points without a finite loss are left out, and the line is broken there.

    Args:
        runs: the runs of one method.

    Returns:
        SVG that follows the page's theme, read out as one image; empty without two points to join.
    """
    return _drawn([("", [run.curve for run in runs])], f"Loss over steps. {in_words(runs)}")


def record_curves(runs: Sequence[Run]) -> str:
    """Draw how the mean loss of the records to forget, and of those to keep, went in each run.

    Args:
        runs: the runs of one method.

    Returns:
        SVG as of `objective_curves`, the two groups told apart by colour and width.
    """
    groups = [
        ("forget", [run.forget_curve for run in runs]),
        ("keep", [run.retain_curve for run in runs]),
    ]
    words = "; ".join(
        f"{name}: {_number(_ends(curve)[0])} to {_number(_ends(curve)[1])}"
        for name, group in groups
        for curve in group
        if any(_pieces(curve))
    )
    return _drawn(groups, f"Loss of the records over steps. {words}")


def _drawn(groups: Sequence[tuple[str, Sequence[Curve]]], label: str) -> str:
    """Draw groups of curves; a group with a name is told in a line above."""
    pieces = [(name, [_pieces(curve) for curve in group]) for name, group in groups]
    points = [point for _, group in pieces for run in group for piece in run for point in piece]
    if len({x for x, _ in points}) < 2:
        return ""
    named = [name for name, group in pieces if name and any(map(any, group))]
    top = _TOP + (_LEGEND if named else 0.0)
    across = _Axis.of([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis.of([y for _, y in points], _HEIGHT - _BOTTOM, top)
    drawn = [
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" class="curves">'
    ]
    for i, name in enumerate(named):
        x = _LEFT + 90.0 * i
        drawn.append(f'<path d="M{x:g} {_TOP:g}h22" class="curve {name}"/>')
        drawn.append(_text(x + 28, _TOP + 4, name, "start"))
    drawn += [
        f'<path d="M{_LEFT:g} {up.at(y):.1f}H{_WIDTH - _RIGHT:g}" class="grid"/>'
        + _text(_LEFT - 6, up.at(y) + 4, _number(y), "end")
        for y in up.ticks
    ]
    below = _HEIGHT - _BOTTOM + 16
    drawn += [_text(across.at(x), below, _number(x)) for x in across.ticks]
    drawn.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "step"))
    for name, group in pieces:
        for i, run in enumerate(group):
            lines = "".join(
                "M" + "L".join(f"{across.at(x):.1f} {up.at(y):.1f}" for x, y in piece)
                for piece in run
            )
            if lines:
                kind, dash = f"curve {name}".strip(), _DASHES[i % len(_DASHES)]
                drawn.append(f'<path d="{lines}" class="{kind}" stroke-dasharray="{dash}"/>')
    return "".join([*drawn, "</svg>"])


def in_words(runs: Sequence[Run]) -> str:
    """Say where the loss of each run began and ended.

    Args:
        runs: the runs of one method.

    Returns:
        Text that holds numbers only.
    """
    several = len({run.forget for run in runs}) > 1
    sentences = []
    for run in runs:
        points = [point for piece in _pieces(run.curve) for point in piece]
        whose = f"Seed {run.seed}{f', set {run.forget}' if several else ''}"
        if points:
            first, last = points[0], points[-1]
            sentences.append(
                f"{whose}: {_number(first[1])} at step {first[0]:g}, {_number(last[1])} at step "
                f"{last[0]:g}."
            )
        else:
            sentences.append(f"{whose}: no loss was logged.")
    return " ".join(sentences)


def _ends(curve: Curve) -> tuple[float, float]:
    """Return the first and the last finite loss."""
    points = [point for piece in _pieces(curve) for point in piece]
    return points[0][1], points[-1][1]


def _pieces(curve: Curve) -> list[list[tuple[float, float]]]:
    """Cut a curve where it has no finite loss."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in curve:
        if math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


class _Axis:
    """A linear scale with round numbers on it."""

    def __init__(self, low: float, high: float, start: float, end: float, step: float) -> None:
        self._low, self._high, self._start, self._end = low, high, start, end
        first = math.ceil(low / step - 1e-9)
        last = math.floor(high / step + 1e-9)
        self.ticks = [step * i for i in range(first, last + 1)]

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        low, high = min(values), max(values)
        if high - low < 1e-9 * max(1.0, abs(low)):
            low, high = low - 0.5, high + 0.5
        rough = (high - low) / _TICKS
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1.0, 2.0, 5.0, 10.0) if size * m >= rough * (1 - 1e-9))
        return cls(low, high, start, end, step)

    def at(self, value: float) -> float:
        part = (value - self._low) / (self._high - self._low)
        return self._start + part * (self._end - self._start)


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def _number(value: float) -> str:
    return f"{value + 0.0:.3g}".replace("-", "−")
