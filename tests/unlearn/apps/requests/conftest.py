"""A ledger on each kind of database, and a desk that takes requests for a tiny adapter."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.requests import verify
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.provenance.keys import Key
from unlearn_eval.verdict.decision import load_policy


def add_many(ledger: Ledger, facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Add requests in one transaction; return their ids."""
    with ledger.writing() as writer:
        return writer.add(facts)


@pytest.fixture
def key(lineage_key: str) -> Key:
    """The key of all ledgers here: the session's, given as an environment variable would be."""
    return Key(bytes.fromhex(lineage_key))


def _binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of our own on loopback; stopped afterwards."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here: install the package postgresql")
    pytest.importorskip("psycopg", reason="no psycopg: pip install '.[postgresql]'")
    # a short path that the server's user may enter: a root's temporary folders are its own
    folder = Path("/tmp") / f"unlearn-pg-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o755)
    user: list[str] = []
    if os.getuid() == 0:  # which initdb refuses to run as
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *words: str) -> None:
        command = [*user, str(binaries / program), *words]
        done = subprocess.run(
            command, check=False, cwd=folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
    options += " -c fsync=off -c max_connections=50"
    log = str(folder / "log")
    call("pg_ctl", "-D", data, "-w", "-o", options, "-l", log, "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes the URL of an empty database of a kind, a new one with each call."""

    def create(kind: str) -> str:
        name = f"t{uuid.uuid4().hex}"
        if kind == "sqlite":
            return str(tmp_path / f"{name}.db")
        server = request.getfixturevalue("postgresql")
        import psycopg

        with contextlib.closing(psycopg.connect(f"{server}/postgres", autocommit=True)) as opened:
            opened.execute(f"CREATE SCHEMA {name}")  # far cheaper than a database each
        return f"{server}/postgres?options=-csearch_path%3D{name}"

    return create


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def fresh_url(request: pytest.FixtureRequest, make_url: Callable[[str], str]) -> Callable[[], str]:
    """Makes the URL of an empty database, a new one with each call."""
    return lambda: make_url(request.param)


@pytest.fixture
def url(fresh_url: Callable[[], str]) -> str:
    """The URL of an empty database."""
    return fresh_url()


@pytest.fixture
def ledger(url: str, key: Key) -> Ledger:
    """An empty ledger."""
    return Ledger.open(url, key)


class Case:
    """An adapter and data of our own, and the command line on a ledger."""

    fast = ("-o", "max_steps=2", "-o", "batch_size=2", "--method", "npo")

    def __init__(
        self, work: Path, url: str, model: Path, adapter: Path, data: Path, capfd: Any, patch: Any
    ) -> None:
        self.work, self.model, self.capfd, self._patch = work, model, capfd, patch
        self.adapter = work / "adapters" / "first"
        shutil.copytree(adapter, self.adapter)
        self.data = work / "data" / "records.jsonl"
        self.data.parent.mkdir()
        shutil.copy(data, self.data)
        self.url = url
        self.output = ""

    def call(self, *words: str | Path, code: int | None = 0) -> str:
        given = [*map(str, words)]
        found = run(["request", *given, "--ledger", self.url])
        assert code in (found, None), self.capfd.readouterr()
        out, err = self.capfd.readouterr()
        self.output += out + err
        return str(err if code == 2 else out)

    def json(self, *words: str | Path, code: int | None = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call(*words, "--json", code=code))
        return found

    def add(self, *which: str, **more: str) -> str:
        words = ["add", "--model", self.model, "--adapter", self.adapter, "--data", self.data]
        words += [word for selector in which for word in ("--forget", selector)]
        words += [word for key, value in more.items() for word in (f"--{key}", value)]
        return str(self.json(*words)["id"])

    def located(self, *which: str, **more: str) -> str:
        name = self.add(*which, **more)
        assert self.json("locate", name, "--yes")["state"] == "located"
        return name

    def decides(self, outcome: str) -> None:
        """Let every verification from here on come to this outcome, whatever the scores say."""

        def decide(folder: Path, policy: str | None) -> Mapping[str, Any]:
            assert (folder / "audit.json").is_file()
            name, content = load_policy(policy or "standard")
            policies = {"name": name, "sha256": content.sha256, "chosen": "before"}
            return {"outcome": outcome, "tier": "A", "reasons": ["so it is"], "policy": policies}

        self._patch.setattr(verify, "_decide", decide)

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(self.url)


@pytest.fixture
def kind() -> str:
    """Of the database: the tests of the ledger run on both, here one does for most."""
    return "sqlite"


@pytest.fixture
def case(
    kind: str,
    make_url: Callable[[str], str],
    tmp_path: Path,
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    lineage_key: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    undrawn: None,
) -> Case:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    return Case(tmp_path, make_url(kind), tiny_model, adapter, data_file, capfd, monkeypatch)
