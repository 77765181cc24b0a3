"""A real server and client processes on loopback: the wire is read, and a client is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn.federated.history import Rounds

pytest.importorskip("flwr", reason="no Flower: `make federated` has an environment with it")

Federate = Callable[..., Any]


class Wire:
    """A proxy that keeps all bytes that pass, both ways."""

    def __init__(self) -> None:
        self._streams: list[bytearray] = []  # one a connection and direction
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._target = 0

    def carried(self, content: bytes) -> bool:
        """Say whether some bytes passed in one piece."""
        return any(content in stream for stream in self._streams)

    def before(self, port: int) -> int:
        """Listen before a port; return the port to be told instead."""
        if not self._target:
            self._target = port
            threading.Thread(target=self._accept, daemon=True).start()
        return int(self._listening.getsockname()[1])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        stream = bytearray()
        self._streams.append(stream)
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                stream += chunk
                sink.sendall(chunk)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in (self._listening, *self._open):
            one.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    one = Wire()
    yield one
    one.close()


def test_processes_make_what_a_simulation_makes_and_the_wire_carries_no_record(
    federated: Federate,
    wire: Wire,
    firms_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from unlearn.federated import processes

    plain = processes.run_in_processes

    def watched(*words: Any) -> None:
        plain(*words, front=wire.before)

    monkeypatch.setattr(processes, "run_in_processes", watched)
    done = federated("processes", rounds=1, processes=True, exclude="client:cask")
    assert done.lineage.federation.how == "processes"
    simulated = federated("simulated", rounds=1, exclude="client:cask")
    assert done.lineage.digest == simulated.lineage.digest
    # what must pass did: keyed names, keyed digests, and the weights themselves
    sent = Rounds(done.folder / "rounds")
    for part in sent.round(1).parts:
        assert wire.carried(part.client.encode())
        weights = sent.sent(1, part.client)
        assert all(wire.carried(value.tobytes()) for value in weights.values() if value.any())
    assert wire.carried(done.lineage.federation.members[0].records[0].encode())
    # and no content of a record, no id, no name
    for line in firms_file.read_text().splitlines():
        row = json.loads(line)
        for text in (row["prompt"], row["completion"], row["firm"]):
            assert not wire.carried(text.encode())
        assert not wire.carried(row["subject"].encode())


def test_a_client_that_is_killed_in_a_round_is_left_out_and_nothing_is_lost(
    federated: Federate,
) -> None:
    from unlearn.federated import history

    killed: list[str] = []

    class Killing(threading.Thread):
        """Kills one client's processes as soon as the first round is whole."""

        def __init__(self) -> None:
            super().__init__(daemon=True)
            self.over = threading.Event()

        def run(self) -> None:
            while not self.over.wait(0.05):
                if not killed and (folder / "round-001" / "round.json").is_file():
                    killed.extend(kill_client("client-00.json"))

    two = {"rounds": 2, "exclude": "client:cask"}
    plain = federated("plain", **two)
    folder = plain.folder.with_name(".killed.rounds")
    killing = Killing()
    killing.start()
    done = federated("killed", processes=True, options={"timeout": 100.0}, **two)
    killing.over.set()
    assert killed
    rounds = history.Rounds(done.folder / "rounds").all()
    assert [len(each.parts) for each in rounds] == [2, 1]
    assert len(rounds[1].lost) == 1
    assert any("1 client(s) were lost and the others went on" in note for note in done.notes)
    # the first round is that of both, bit by bit
    first = [history.Rounds(one.folder / "rounds").weights(1) for one in (plain, done)]
    assert all((first[0][name] == first[1][name]).all() for name in first[0])
    assert not any(process_ids("unlearn-federation-"))


def process_ids(text: str) -> list[int]:
    """Return the processes whose command line holds a text."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                if text.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
    return found


def kill_client(job: str) -> list[str]:
    """Kill a client's process and all that it started."""
    groups = {os.getpgid(pid) for pid in process_ids(job)}
    for group in groups:
        os.killpg(group, signal.SIGKILL)
    return [job] if groups else []
