"""The apps that Flower's processes load: each finds its work in a file that its machine has.

A client's file names its records, base and how to open it. The server's names the plan and the
folder of rounds, and no record.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flwr.serverapp import ServerApp

from unlearn.data.records import Records
from unlearn.errors import UnlearnError
from unlearn.federated.client import Client, Workshop, client_app
from unlearn.federated.history import Rounds
from unlearn.federated.members import in_order
from unlearn.federated.plan import Plan
from unlearn.federated.server import server_app
from unlearn.files import staged_file
from unlearn.model.opening import Opening
from unlearn.provenance.keys import Key
from unlearn.strict_json import read_json_file

__all__ = ["JOB", "client", "server"]

JOB = "job"
"""Name under which both kinds of processes are told of their file."""

_PATIENCE = 120.0
"""Seconds in which clients may report when a server begins."""


def _client_of(context: Any) -> Client:
    job = read_json_file(context.node_config[JOB])
    workshop = Workshop(job["model"], Opening(**job["opening"]))
    key = Key.load()
    records = in_order(Records.load(job["data"]), key)
    return Client(job["client"], records, key, workshop)


client = client_app(_client_of)

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
