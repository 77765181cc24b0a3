"""Metrics for the library `evaluate`: thin covers over this package's own functions.

    evaluate.load(module_path("rouge_l")).compute(predictions=[…], references=[…])
    evaluate.combine([module_path("rouge_l"), module_path("verbatim")])

`evaluate` copies a module's file into its cache and runs it there, so this package must be
installed; nothing is fetched from the hub.
"""

from __future__ import annotations

from pathlib import Path

from unlearn.errors import OptionError, did_you_mean

__all__ = ["MODULES", "module_path"]

MODULES = ("extraction_strength", "membership_auc", "rouge_l", "truth_ratio", "verbatim")


def module_path(name: str) -> str:
    """Return the folder that `evaluate.load` takes.

    Args:
        name: one of `MODULES`.

    Returns:
        The path.

    Raises:
        OptionError: if there is no such module.
    """
    if name not in MODULES:
        raise OptionError(
            f"no module {name!r}{did_you_mean(name, MODULES)}: choose {', '.join(MODULES)}"
        )
    return str(Path(__file__).parent / name)
