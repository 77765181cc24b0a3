"""How a command ends early: Ctrl-C, SIGTERM, or nobody who reads its output any more."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
from collections.abc import Sequence
from typing import Any, TextIO

__all__ = ["Interrupted", "Reader", "Terminated", "hang_up", "listen", "what_becomes_of_it"]


class Interrupted(BaseException):
    """Ctrl-C while a verb was at work; typer would forget what the exception carries."""


class Terminated(BaseException):
    """SIGTERM, so that temporary folders are cleaned up on the way out."""


def listen() -> None:
    """Let SIGTERM raise `Terminated`; only the main thread can."""

    def terminate(*_: Any) -> None:
        raise Terminated

    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, terminate)


def what_becomes_of_it(stop: BaseException, arguments: Sequence[str]) -> str:
    """Say what an interruption leaves, and with which command the work goes on.

    Further signals are ignored from then on: what is left to do takes a moment.

    Args:
        stop: what was raised; its notes, or those of its cause, say it.
        arguments: the words after `unlearn`.

    Returns:
        A few words.
    """
    with contextlib.suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
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
