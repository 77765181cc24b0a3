"""How a command ends early: Ctrl-C, SIGTERM, or nobody who reads its output any more."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, TextIO

__all__ = ["Interrupted", "Reader", "Terminated", "hang_up", "listening", "what_becomes_of_it"]


class Interrupted(BaseException):
    """Ctrl-C; of a `KeyboardInterrupt` typer and the interpreter make things of their own."""


class Terminated(BaseException):
    """SIGTERM, so that temporary folders are cleaned up on the way out."""


_AGAIN = 0.05
"""Seconds after which it is tried again to stop, while something is being imported."""
_PATIENCE = 15.0
"""Seconds of that at most."""


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Let Ctrl-C raise `Interrupted`, and SIGTERM `Terminated`; only the main thread can.

    What is being imported is waited for: libraries written in C++ abort when an exception comes out
    of the interpreter then.

    Yields:
        Nothing.
    """
    raised = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}
    asked: dict[str, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        if number in raised:
            asked.setdefault("since", time.monotonic())
            asked.setdefault("what", raised[signal.Signals(number)])
        if not asked:  # a timer's signal that was on its way when it was stopped
            return
        late = time.monotonic() - asked["since"] > _PATIENCE
        if _importing(frame) and not late and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            asked["again"] = True
            return
        raise forgotten()["what"]

    def forgotten() -> dict[str, Any]:
        """Take what was asked, and let no timer remind of it."""
        was = dict(asked)
        asked.clear()
        if "again" in was:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return was

    numbers = [*raised, *([signal.SIGALRM] if hasattr(signal, "SIGALRM") else [])]
    before = {number: signal.getsignal(number) for number in numbers}
    with contextlib.suppress(ValueError):
        for number in numbers:
            # what a shell has started in the background ignores Ctrl-C, and goes on doing so
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, stop)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, TypeError):  # TypeError: not set by Python
            forgotten()
            for number in numbers:
                signal.signal(number, before[number])


def _importing(frame: FrameType | None) -> bool:
    """Say whether a module is being imported."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


def what_becomes_of_it(stop: BaseException, arguments: Sequence[str]) -> str:
    """Say what an interruption leaves, and with which command the work goes on.

    Args:
        stop: what was raised; its notes, or those of its cause, say it.
        arguments: the words after `unlearn`.

    Returns:
        A few words.
    """
    raised: BaseException | None = stop
    while raised is not None:
        if notes := getattr(raised, "__notes__", ()):
            repeat = ": " + shlex.join(["unlearn", *arguments])
            again = "the same command" in notes[-1]
            return f"nothing half-written was kept; {notes[-1]}{repeat if again else ''}"
        raised = raised.__cause__ or raised.__context__
    return "nothing half-written was kept"


class Reader:
    """Whoever reads a stream, if it is a pipe.

    A copy of the descriptor is asked: libraries point the stream itself elsewhere when it breaks.

    Args:
        stream: such as stdout; None where there is none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        try:
            self._copy = os.dup(stream.fileno()) if stream else None
        except (OSError, ValueError):  # it is no file, or is closed
            self._copy = None

    def gone(self) -> bool:
        """Say whether nobody reads any more."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except BrokenPipeError:
            return True
        except (OSError, ValueError):
            return False
        if self._copy is None or not hasattr(select, "poll"):
            return False
        # without a buffer nothing is left to be flushed, but the system knows
        asked = select.poll()
        asked.register(self._copy, 0)
        return bool(asked.poll(0))

    def close(self) -> None:
        """Let go of the copy."""
        if self._copy is not None:
            os.close(self._copy)
            self._copy = None


def hang_up(stream: TextIO | None) -> None:
    """Let a stream that nobody reads lead nowhere, so that nothing fails on it any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        assert stream is not None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
