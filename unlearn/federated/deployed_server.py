"""The app that Flower loads in the server's process: it finds its work in a file of its machine.

The file names the plan and the folder of rounds, and no record.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flwr.serverapp import ServerApp

from unlearn.errors import UnlearnError
from unlearn.federated.history import Rounds
from unlearn.federated.plan import JOB, Plan
from unlearn.federated.server import server_app
from unlearn.files import staged_file
from unlearn.strict_json import read_json_file

__all__ = ["server"]

_PATIENCE = 600.0
"""Seconds in which clients may report when a server begins."""

server = ServerApp()


@server.main()  # type: ignore[untyped-decorator]
def main(grid: Any, context: Any) -> None:
    """Run the rounds of a plan, and write down how it ended."""
    job = read_json_file(context.run_config[JOB])
    error = "the server of the federation ended unexpectedly"
    try:
        plan, rounds = Plan(**job["plan"]), Rounds(Path(job["rounds"]))
        server_app(plan, rounds, patience=_PATIENCE)(grid, context)
        error = ""
    except UnlearnError as problem:
        error = str(problem)
    finally:
        with staged_file(Path(job["ended"])) as stage:
            stage.write_text(json.dumps({"error": error}), encoding="utf-8")
