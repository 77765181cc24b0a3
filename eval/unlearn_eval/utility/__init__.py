"""Utility: what is left of everything that should stay."""

from __future__ import annotations

__all__ = ["UTILITY"]

UTILITY = (
    ("loss", "mean loss of the tokens of a record", "", "", ""),
    (
        "calibration",
        "whether the model is right as often as it is sure, on records to keep and unseen ones",
        "",
        "",
        "https://arxiv.org/abs/1706.04599",
    ),
    ("drift", "how far predictions moved from those before (KL)", "--before", "", ""),
    (
        "rouge",
        "overlap of the record with what the model writes by itself",
        "",
        "generation of 64 records a split (--generate)",
        "https://aclanthology.org/W04-1013",
    ),
    (
        "repetition",
        "share of what it writes that it wrote just before",
        "",
        "the same generation",
        "https://arxiv.org/abs/1908.04319",
    ),
    (
        "distinct",
        "share of word pairs that are new in what it writes",
        "",
        "the same generation",
        "https://arxiv.org/abs/1510.03055",
    ),
)
"""(name, summary, needs, cost, paper) of what is looked at beside attacks and extraction."""
