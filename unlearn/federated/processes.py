"""A server and clients as processes of their own on loopback: Flower's SuperLink and SuperNodes.

Each client has a file of its own records, in a folder that only this user may read; its process is
told of that file, and the server's of none. What passes between them is Flower's messages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unlearn.errors import TrainingError
from unlearn.federated.flower import QUIET
from unlearn.federated.history import Rounds
from unlearn.federated.members import Members
from unlearn.federated.plan import JOB, Plan
from unlearn.model.opening import Opening
from unlearn.strict_json import read_json_file

__all__ = ["run_in_processes"]

_HOST = "127.0.0.1"
_START = 120.0
"""Seconds in which a server must begin to listen."""
_LOOK = 0.5
"""Seconds between two looks at how far it is."""
_PATIENCE = 5.0
"""Seconds in which processes may clean up."""

_APP = """
[project]
name = "unlearn-federation"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "unlearn"

[tool.flwr.app.components]
serverapp = "unlearn_federation.server:app"
clientapp = "unlearn_federation.client:app"

[tool.flwr.app.config]
job = ""
"""

_SERVER = "from unlearn.federated.deployed_server import server as app\n"
_CLIENT = "from unlearn.federated.deployed_client import client as app\n"

_GUARDED = """exec 3<&0
"$@" </dev/null 3<&- &
child=$!
(trap '' TERM; read -r _ <&3; kill -TERM 0; sleep 3; kill -KILL 0) &
exec 3<&-
wait $child
"""
"""Runs a command until it ends, or until the other end of stdin is gone."""

Told = Callable[[int, int], None]


def run_in_processes(
    plan: Plan,
    rounds: Rounds,
    members: Members,
    model: str | Path,
    opening: Opening,
    told: Told | None = None,
    front: Callable[[int], int] = int,
) -> None:
    """Run the rounds of a plan that are not there yet, by a server and a process for each client.

    Args:
        plan: what to do.
        rounds: where they are kept.
        members: the clients and their records.
        model: the base.
        opening: how it is opened.
        told: called with (rounds done, rounds planned).
        front: from the server's port to that which clients are told, as of a proxy before it.

    Raises:
        TrainingError: if a round ends with too few answers, or the server is lost.
    """
    with tempfile.TemporaryDirectory(prefix="unlearn-federation-") as folder, _Processes() as team:
        scratch = Path(folder)  # mode 700
        (scratch / "logs").mkdir()
        environment, ended = _environment(scratch), scratch / "ended.json"
        port = _free_port()
        words = ["flower-superlink", "--insecure", "--host", _HOST, "--port", str(port)]
        words.append("--disable-runtime-dependency-installation")
        link = team.start(words, environment, scratch / "logs" / "server.log")
        _listens(link, port, scratch / "logs" / "server.log")
        for number, job in enumerate(_client_jobs(scratch, members, model, opening)):
            words = ["flower-supernode", "--insecure", "--superlink", f"{_HOST}:{front(port)}"]
            words += ["--host", _HOST, "--port", str(_free_port())]
            words += ["--node-config", f"{JOB}={json.dumps(str(job))}"]
            team.start(words, environment, scratch / "logs" / f"client-{number:02}.log")
        job = scratch / "server.json"
        content = {"plan": plan.model_dump(), "rounds": str(rounds.folder), "ended": str(ended)}
        _private(job, json.dumps(content))
        # Flower is not always up to date with what it calls
        with _environment_of(environment), warnings.catch_warnings(action="ignore"):
            _submit(scratch, port, job)
        _wait(link, rounds, ended, len(plan.schedule), told, scratch / "logs" / "server.log")


def _client_jobs(
    scratch: Path, members: Members, model: str | Path, opening: Opening
) -> Iterator[Path]:
    """Write each client's records and job into files of its own; yield the jobs."""
    for number, name in enumerate(members.clients.values()):
        data, job = (scratch / f"client-{number:02}.{end}" for end in ("jsonl", "json"))
        _private(data, "".join(json.dumps(_row(r)) + "\n" for r in members.of(name)))
        content = {
            "client": name,
            "data": str(data),
            "model": str(model),
            "opening": opening.as_dict(),
        }
        _private(job, json.dumps(content))
        yield job


def _row(record: Any) -> dict[str, Any]:
    """Return a record as a row of a data file."""
    row = {key: value for key, value in vars(record).items() if key in _FIELDS and value}
    row |= {"id": record.id}
    if record.secrets:
        row["secrets"] = [vars(secret) for secret in record.secrets]
    return row | {
        k: getattr(record, k) for k in ("text", "prompt", "completion") if _has(record, k)
    }


_FIELDS = ("subject", "messages", "tools", "poisoned")


def _has(record: Any, key: str) -> bool:
    return getattr(record, key) is not None


def _private(path: Path, text: str) -> None:
    """Write a file that only this user may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _environment(scratch: Path) -> dict[str, str]:
    """Return the variables of Flower's processes: it finds its programs, and tells nobody."""
    import torch

    programs = str(Path(sys.executable).parent)
    # what this process imports they import, also from a source tree
    paths = os.pathsep.join(path for path in sys.path if path)
    return {
        **os.environ,
        **QUIET,
        "FLWR_HOME": str(scratch / "flower"),
        "PATH": programs + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }


@contextlib.contextmanager
def _environment_of(variables: Mapping[str, str]) -> Iterator[None]:
    """Let this process have other variables for a while."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _submit(scratch: Path, port: int, job: Path) -> None:
    """Hand the server its app, which is nothing but where to import it from."""
    from flwr.cli.build import build_fab_from_files
    from flwr.cli.typing import SuperLinkConnection
    from flwr.cli.utils import init_http_client_from_connection
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    folder = {"__init__": "", "server": _SERVER, "client": _CLIENT}
    files = {f"unlearn_federation/{name}.py": text for name, text in folder.items()}
    files["pyproject.toml"] = _APP
    fab, _ = build_fab_from_files({name: text.encode() for name, text in files.items()})
    said = scratch / "logs" / "submit.log"
    with said.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        link = SuperLinkConnection("loopback", address=f"{_HOST}:{port}", insecure=True)
        control = init_http_client_from_connection(link)
        try:
            content = fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {}))
            config = user_config_to_proto({JOB: str(job)})
            control.StartRun(StartRunRequest(fab=content, override_config=config))
        except Exception as error:  # as many kinds as there are ways to lose a connection
            words = " ".join(str(error).split())[:200]
            raise TrainingError(f"the server of the federation takes no work: {words}") from error
        finally:
            control.close()


def _wait(
    link: subprocess.Popen[bytes],
    rounds: Rounds,
    ended: Path,
    planned: int,
    told: Told | None,
    log: Path,
) -> None:
    """Wait until the server has written down how it ended."""
    done = rounds.last()
    while not ended.is_file():
        if link.poll() is not None:
            raise TrainingError(
                f"the server of the federation ended unexpectedly ({_last_line(log)}); "
                f"{rounds.last()} whole round(s) are kept, and the same command goes on"
            )
        if told and rounds.last() > done:
            done = rounds.last()
            told(done, planned)
        time.sleep(_LOOK)
    if error := read_json_file(ended)["error"]:
        raise TrainingError(str(error))


class _Processes:
    """Processes that all end with the block, and what they started with them."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Processes:
        return self

    def start(
        self, words: list[str], environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own; what it says goes to a file.

        The group ends when this process does, however that ends: a shell waits for the pipe.
        """
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", _GUARDED, "sh", *words],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._all.append(process)
        return process

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._all):  # clients first
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + _PATIENCE
        for process in self._all:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
        for process in self._all:
            _signal(process, signal.SIGKILL)
            process.wait()
            if process.stdin:
                process.stdin.close()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((_HOST, 0))
        return int(one.getsockname()[1])


def _listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
            return
        time.sleep(0.2)
    raise TrainingError(f"the server of the federation did not start: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
