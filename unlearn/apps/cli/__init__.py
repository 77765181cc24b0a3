"""The `unlearn` command. Each verb has a file; what is heavy is imported when a verb runs."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from unlearn.apps.cli.ending import (
    Interrupted,
    Reader,
    Terminated,
    hang_up,
    listening,
    what_becomes_of_it,
)
from unlearn.apps.cli.speaker import lost_another, voice
from unlearn.errors import UnlearnError
from unlearn.printable import printable
from unlearn.processes import world_size

__all__ = ["run"]

_PIPE = 141
"""Exit code where nobody reads the output: what a shell makes of SIGPIPE."""


_REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS), "nothing more can be written"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "a file or folder may not be used so"),
}
"""What the system may refuse at any time, whatever was checked before."""


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: the words after `unlearn`.

    Returns:
        The exit code: 0 done, 2 wrong input, 1 partly failed or something found (by a check, or
        left by a sweep), 3 FAIL and 4 INCONCLUSIVE of `verify`, 130 or 143 interrupted, 141 nobody
        reads the output.
    """
    _calm()
    shown, told, reader = sys.stdout, sys.stderr, Reader(sys.stdout)
    try:
        with listening():
            code = _carried_out(arguments)
    except (KeyboardInterrupt, Interrupted) as stop:
        code = _fail(f"interrupted; {what_becomes_of_it(stop, arguments)}", 130)
    except Terminated as stop:
        code = _fail(f"terminated; {what_becomes_of_it(stop, arguments)}", 143)
    except (BrokenPipeError, SystemExit) as error:
        # typer makes an exit of any broken pipe, also of one between processes of ours
        broken = error.__context__ if isinstance(error, SystemExit) else error
        if not isinstance(broken, BrokenPipeError):
            raise
        sys.stdout, sys.stderr = shown, told
        if not reader.gone():
            raise broken from None
        # whoever read our output has gone (`| head`): not our error, and nothing left to say
        code = _PIPE
    except OSError as error:
        if error.errno in _REFUSALS:
            where = f" ({error.filename})" if error.filename else ""
            code = _fail(f"{_REFUSALS[error.errno]}: {error.strerror}{where}")
        else:
            code = _unexpected(error)
    finally:
        lost = [each for each in map(_let_go, (shown, told)) if each]
        reader.close()
    return code or (_fail(f"the output was lost: {lost[0]}") if lost else 0)


def _carried_out(arguments: Sequence[str]) -> int:
    """Parse the words and do what they say; return the exit code."""
    from typer import Abort, Exit

    from unlearn.apps.cli.app import command

    try:
        world_size()  # a contradiction is told before anything is done
        code = command().main(list(arguments), prog_name="unlearn", standalone_mode=False)
    except UnlearnError as error:
        return _fail(str(error))
    except Exit as stop:
        return int(stop.exit_code)
    except Abort as stop:
        # typer makes one of Ctrl-C and of the end of what it reads alike
        if isinstance(stop.__cause__, KeyboardInterrupt):
            raise stop.__cause__ from None
        return _fail("there was no answer to a question: give the flag that answers it", 130)
    except Exception as error:
        if isinstance(error, OSError):  # which may be no error of ours
            raise
        # typer keeps its usage errors in a private module; this is what tells them apart
        return _usage(error) if hasattr(error, "format_message") else _unexpected(error)
    return code if isinstance(code, int) else 0


def _let_go(stream: Any) -> str | None:
    """Flush a stream, which the end of the interpreter would do with a traceback if it fails.

    Returns why something was lost that somebody waits for.
    """
    try:
        stream.flush()
    except BrokenPipeError:
        hang_up(stream)
    except OSError as error:
        hang_up(stream)
        return error.strerror
    except (ValueError, AttributeError):  # it is closed, or there is none
        pass
    return None


def _unexpected(error: Exception) -> int:
    """Let an error of ours, or of a library, out with its traceback, from one of the processes."""
    if lost_another(error):
        return _fail("another process ended before its work was done: see what it said", 1)
    speaks, code = voice(1)
    if speaks:
        raise error
    return code


def _usage(error: Any) -> int:
    """Show what is wrong with the words of the command, in one line."""
    text = str(error.format_message()).rstrip()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(printable(text) + "\n")
        return 0
    context = getattr(error, "ctx", None)
    return _fail(text + (f" (see `{context.command_path} --help`)" if context else ""))


def _fail(message: str, code: int = 2) -> int:
    """Say why a command ends, once for all processes; return the exit code."""
    speaks, code = voice(code)
    if not speaks:
        return code
    with contextlib.suppress(OSError, AttributeError):  # nobody hears it
        sys.stderr.write("unlearn: " + printable(" ".join(message.split())) + "\n")
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
