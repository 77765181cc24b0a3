"""SIGTERM as schedulers send it before they take a machine away: first the work is kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Preemption", "preemptible"]


_TERMINATED = 143


class Preemption:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take note of it; the same signal may come from a scheduler and from a launcher."""
        self.asked = True


@contextlib.contextmanager
def preemptible() -> Iterator[Preemption]:
    """Let SIGTERM wait until the block ends, which asks for it where it can stop.

    At the end of the block the signal does what it would have done at once; where that is to go on,
    the exit code is 143 all the same, as the work is not done. Only the main thread can let it
    wait; a signal that is ignored stays so.

    Yields:
        What tells whether it has come.

    Raises:
        SystemExit: with 143, see above.
    """
    told = Preemption()
    before = signal.getsignal(signal.SIGTERM)
    here = threading.current_thread() is threading.main_thread()
    if not here or before in (signal.SIG_IGN, None):  # None: not set by Python
        yield told
        return
    signal.signal(signal.SIGTERM, told.note)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
    if told.asked:
        signal.raise_signal(signal.SIGTERM)
        raise SystemExit(_TERMINATED)
