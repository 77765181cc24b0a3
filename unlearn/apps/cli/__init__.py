"""The `unlearn` command. Each verb has a file; what is heavy is imported when a verb runs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from unlearn.errors import UnlearnError
from unlearn.processes import world_size

__all__ = ["run"]


class _Terminated(BaseException):
    """SIGTERM, so that temporary folders are cleaned up on the way out."""


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: the words after `unlearn`.

    Returns:
        The exit code: 0 done, 2 wrong input, 1 partly failed or something found (by a check, or
        left by a sweep), 3 FAIL and 4 INCONCLUSIVE of `verify`, 130 or 143 interrupted.
    """
    from typer import Abort, Exit

    from unlearn.apps.cli.app import command

    _calm()
    shown, told = sys.stdout, sys.stderr

    def terminate(*_: Any) -> None:
        raise _Terminated

    with contextlib.suppress(ValueError):  # not the main thread: leave signals alone
        signal.signal(signal.SIGTERM, terminate)
    try:
        world_size()  # a contradiction is told before anything is done
        code = command().main(list(arguments), prog_name="unlearn", standalone_mode=False)
    except UnlearnError as error:
        return _fail(str(error))
    except Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, Abort):
        return _fail("interrupted; nothing half-written was kept", 130)
    except _Terminated:
        return _fail("terminated; nothing half-written was kept", 143)
    except (BrokenPipeError, SystemExit) as error:
        # typer makes an exit of any broken pipe, also of one between processes of ours
        broken = error.__context__ if isinstance(error, SystemExit) else error
        if not isinstance(broken, BrokenPipeError):
            raise
        if _abandoned(shown):
            # whoever read our output has gone (`| head`): not our error, and nothing left to say
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
            return 0
        sys.stdout, sys.stderr = shown, told
        raise broken from None
    except Exception as error:
        # typer keeps its usage errors in a private module; this is what tells them apart
        if not hasattr(error, "format_message"):
            raise
        return _usage(error)
    return code if isinstance(code, int) else 0


def _abandoned(stream: TextIO) -> bool:
    """Say whether nobody reads a stream any more."""
    try:
        stream.flush()
        number = stream.fileno()
    except BrokenPipeError:
        return True
    except (OSError, ValueError):  # it is no file, or is closed
        return False
    if not hasattr(select, "poll"):
        return False
    # without a buffer nothing is left to be flushed, but the system knows
    asked = select.poll()
    asked.register(number, 0)
    return bool(asked.poll(0))


def _usage(error: Any) -> int:
    """Show what is wrong with the words of the command, in one line."""
    text = str(error.format_message()).rstrip()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(text + "\n")
        return 0
    context = getattr(error, "ctx", None)
    return _fail(text + (f" (see `{context.command_path} --help`)" if context else ""))


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write("unlearn: " + " ".join(message.split()) + "\n")
    return code


def _calm() -> None:
    """Keep libraries from talking over the command's own output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.flags.dev_mode and "PYTHONWARNINGS" not in os.environ:
        import warnings

        warnings.filterwarnings("ignore")
