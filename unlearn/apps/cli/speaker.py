"""Which of several processes says how a command ended, and with which exit code all of them end.

What fails in one process ends the others: by the same error, by a broken connection, or by the
launcher's SIGTERM. The first that ends leaves its exit code in the store of the launcher, and
speaks; the others find it there, and end with the same code, silently.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from unlearn.errors import OptionError
from unlearn.processes import is_main, rank, world_size

__all__ = ["lost_another", "voice"]

_PATIENCE = timedelta(seconds=5)
"""How long the store may take to answer; where nobody keeps one, nobody does at once."""


def voice(code: int) -> tuple[bool, int]:
    """Return whether this process is to say how the command ended, and the exit code.

    Args:
        code: of this process.

    Returns:
        (whether it speaks, the code of the first process that ended). Where there is no store, a
        process speaks for itself; a contradictory environment is one process.
    """
    try:
        if world_size() == 1:
            return True, code
        mine = f"{rank()} {code}"
    except OptionError:
        return True, code
    try:
        store = _store()
        who, first = store.compare_set(_key(), "", mine).decode().split()
    except Exception:  # of many kinds, and each says that there is no store
        return code not in _STOPPED or is_main(), code
    return int(who) == rank(), int(first)


_STOPPED = (130, 143)
"""Exit codes of what comes to all processes from outside."""


def lost_another(error: Exception) -> bool:
    """Say whether an error is that another process closed its connections."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    words = str(error)
    return "Connection closed by peer" in words or "gloo" in words or "NCCL" in words


def _store() -> Any:
    """Return the store at the address that the launcher gave; raises where there is none."""
    from torch import distributed

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    make: Any = distributed.TCPStore  # type: ignore[attr-defined]
    return make(host, port, is_master=False, timeout=_PATIENCE, wait_for_workers=False)


def _key() -> str:
    """Return under which name the end of this attempt is kept; a launcher may try again."""
    return f"unlearn/end/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
