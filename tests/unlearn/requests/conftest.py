"""A ledger on each kind of database."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unlearn.lineage import Key
from unlearn.requests.ledger import Ledger


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
    pytest.importorskip("psycopg", reason="no psycopg: pip install 'unlearn[postgresql]'")
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
