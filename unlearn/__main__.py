"""`python -m unlearn`: the same as the `unlearn` command."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed (`>&-`): libraries expect something there
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        from unlearn.apps.cli import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command has begun
        sys.stderr.write("unlearn: interrupted; nothing was begun\n")
        code = 130
    for number in (signal.SIGINT, signal.SIGTERM):  # the interpreter only tidies up from here on
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


if __name__ == "__main__":
    main()
