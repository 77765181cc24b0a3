"""Send the curves of a training run to experiment trackers, through transformers' integrations.

Trackers are no part of what is trained: they are set around a run, and neither a lineage nor the
digest of a comparison's step knows of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from unlearn.errors import OptionError, did_you_mean

__all__ = ["Tracking", "check_trackers", "tracked", "tracking", "tracking_of"]

_FOLDER = "TENSORBOARD_LOGGING_DIR"
"""Where transformers has TensorBoard write; its own default is a folder that is thrown away."""


@dataclass(frozen=True)
class Tracking:
    """Where a run is reported.

    Attributes:
        names: of trackers, as `report_to` of `transformers.TrainingArguments` takes them.
        run: what the run is called there.
    """

    names: tuple[str, ...] = ()
    run: str | None = None

    @property
    def report_to(self) -> list[str] | str:
        """The names as transformers takes them."""
        return list(self.names) or "none"


_TRACKING: ContextVar[Tracking | None] = ContextVar("tracking", default=None)


def tracking() -> Tracking:
    """Return where runs are reported that begin now."""
    return _TRACKING.get() or Tracking()


def check_trackers(names: str | None) -> tuple[str, ...]:
    """Read a list of trackers.

    Args:
        names: by commas; None or `none` for none.

    Returns:
        Their names.

    Raises:
        OptionError: if transformers does not know one, or its package is not installed.
    """
    wanted = tuple(name.strip() for name in (names or "none").split(",") if name.strip())
    if wanted in ((), ("none",)):
        return ()
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    there = get_available_reporting_integrations()
    for name in wanted:
        if name not in INTEGRATION_TO_CALLBACK:
            hint = did_you_mean(name, INTEGRATION_TO_CALLBACK)
            raise OptionError(f"--report-to: unknown tracker {name!r}{hint}")
        if name not in there:
            raise OptionError(f"--report-to {name}: not installed; pip install {name}")
    return wanted


def tracking_of(names: str | None, output: Path) -> contextlib.AbstractContextManager[None]:
    """Report the training runs inside to the trackers named, under the name of their output."""
    return tracked(check_trackers(names), output.name, f"{output}.runs")


@contextlib.contextmanager
def tracked(names: Sequence[str], run: str, folder: str | Path) -> Iterator[None]:
    """Report the training runs inside to trackers.

    Args:
        names: of trackers; none changes nothing.
        run: what a run is called there.
        folder: where TensorBoard writes, unless `TENSORBOARD_LOGGING_DIR` says it.

    Yields:
        Nothing.
    """
    if not names:
        yield
        return
    token = _TRACKING.set(Tracking(tuple(names), run))
    ours = _FOLDER not in os.environ
    if ours:
        os.environ[_FOLDER] = str(folder)
    try:
        yield
    finally:
        _TRACKING.reset(token)
        if ours:
            os.environ.pop(_FOLDER, None)
