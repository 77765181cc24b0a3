"""Training curves: what is drawn where, and what is said."""

from __future__ import annotations

import math
import re

from unlearn_eval.comparison import Run
from unlearn_eval.report.comparison.curves import in_words, objective_curves, record_curves
from unlearn_eval.report.comparison.methods import anchors


def paths(svg):
    return re.findall(r'<path d="([^"]+)" class="curve"', svg)


def test_a_curve_goes_from_corner_to_corner():
    svg = objective_curves([Run(0, 0, [(0, 10.0), (5, 0.0), (10, 20.0)])])
    # across: 46 to 318; up: 147 to 10
    assert paths(svg) == ["M46.0 78.5L182.0 147.0L318.0 10.0"]
    said = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert said == ["0", "5", "10", "15", "20", "0", "2", "4", "6", "8", "10", "step"]


def test_points_without_a_finite_loss_break_the_line():
    curve = [(1, 1.0), (2, 0.0), (3, math.nan), (4, -math.inf), (5, 1.0), (6, 0.0)]
    run = Run(3, 0, curve)
    assert paths(objective_curves([run]))[0].count("M") == 2
    assert in_words([run]) == "Seed 3: 1 at step 1, 0 at step 6."
    assert objective_curves([Run(0, 0, [(1, math.nan)])]) == ""
    assert objective_curves([Run(0, 0, [(1, 2.0)])]) == ""  # a point is no curve
    assert objective_curves([]) == ""


def test_a_flat_and_a_negative_loss_are_drawn():
    flat = objective_curves([Run(0, 0, [(1, 2.0), (9, 2.0)])])
    assert paths(flat) == ["M46.0 78.5L318.0 78.5"]
    falling = objective_curves([Run(0, 0, [(1, -1e4), (9, -2e4)]), Run(1, 0, [])])
    assert "−2e+04" in falling
    assert "Seed 1: no loss was logged." in falling
    assert len(paths(falling)) == 1
    assert "set 1" in in_words([Run(0, 0), Run(0, 1)])


def test_records_to_forget_and_to_keep_are_two_groups():
    runs = [
        Run(0, 0, [], forget_curve=[(0, 0.0), (10, 4.0)], retain_curve=[(0, 0.0), (10, 1.0)]),
        Run(1, 0, [], forget_curve=[(0, 0.0), (10, 2.0)]),
    ]
    svg = record_curves(runs)
    drawn = re.findall(r'<path d="(M[^"]+)" class="curve (\w+)" stroke-dasharray="([^"]+)"', svg)
    # up: 147 to 28, below the legend
    assert drawn == [
        ("M46.0 147.0L318.0 28.0", "forget", "none"),
        ("M46.0 147.0L318.0 87.5", "forget", "7 3"),
        ("M46.0 147.0L318.0 117.2", "keep", "none"),
    ]
    assert "forget: 0 to 4; forget: 0 to 2; keep: 0 to 1" in svg
    assert re.findall(r'class="curve (\w+)"/>', svg) == ["forget", "keep"]  # the legend
    only = record_curves([Run(0, 0, [], forget_curve=[(0, 0.0), (10, math.inf), (20, 1.0)])])
    assert ">keep<" not in only  # no legend of what is not there
    assert record_curves([Run(0, 0, [(0, 1.0), (1, 2.0)])]) == ""


def test_every_row_has_an_anchor_of_its_own():
    found = anchors(["npo", "a b", "a(b", "  ", "a-b"])
    assert found == {
        "npo": "method-npo",
        "a b": "method-a-b",
        "a(b": "method-a-b-2",
        "  ": "method-unnamed",
        "a-b": "method-a-b-3",
    }
