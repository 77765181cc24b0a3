"""The ledger on SQLite and PostgreSQL: transitions, speed, who may write, what is refused."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from unlearn.apps.requests.check import check
from unlearn.apps.requests.ledger import locks
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.locks import BusyError
from unlearn.apps.requests.ledger.states import EVENTS, OPEN, STATES, after
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key

from ..conftest import add_many

LINE = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def add(ledger: Ledger, n: int = 1, line: str = LINE) -> list[str]:
    return add_many(ledger, [{"line": line, "label": f"case {i}"} for i in range(n)])


def test_the_main_road_leads_from_received_to_closed() -> None:
    state = None
    road = ["added", "located", "planned", "unlearned", "verified", "certified", "closed"]
    seen = [state := after(event, state) for event in road]
    assert seen == ["received", "located", "located", "unlearned", "verified", "verified", "closed"]
    for event in EVENTS:  # nothing comes after the end but a certificate, and the records' end
        if event not in {"certified", "shredded"}:
            with pytest.raises(LedgerError, match="closed cannot be"):
                after(event, "closed")
    with pytest.raises(LedgerError, match="did you mean 'located'"):
        after("locatd", "received")
    assert set(OPEN) | {"closed"} == set(STATES)


def test_requests_are_added_changed_and_found(ledger: Ledger) -> None:
    first, second = add(ledger, 2)
    with ledger.writing() as writer:
        done = writer.change(second, "located", records=["d1", "d2"], label=None)
    assert done == ledger.get(second)
    assert (done.state, done.number) == ("located", 2)
    assert done.facts == {"line": LINE, "records": ["d1", "d2"]}  # None takes a fact back
    assert [r.id for r in ledger.requests()] == [first, second]
    assert [r.id for r in ledger.requests(["received"])] == [first]
    assert [r.id for r in ledger.requests(line=OTHER)] == []
    assert ledger.get("2") == ledger.get(second[:8]) == done
    events = ledger.history(second)
    assert [(e.seq, e.event, e.state) for e in events] == [
        (2, "added", "received"),
        (3, "located", "located"),
    ]
    with pytest.raises(LedgerError, match="no request 'zz'"):
        ledger.get("zz")
    assert check(ledger).ok


def test_a_block_that_fails_leaves_nothing(ledger: Ledger) -> None:
    (name,) = add(ledger)
    before = check(ledger)
    with (
        pytest.raises(LedgerError, match="cannot be verified; it must be unlearned"),
        ledger.writing() as writer,
    ):
        writer.change(name, "located")
        writer.change(name, "verified")
    assert ledger.get(name).state == "received"
    assert check(ledger) == before


def test_another_key_is_refused(ledger: Ledger, url: str) -> None:
    add(ledger)
    with pytest.raises(LedgerError, match="made with the key"):
        Ledger.open(url, Key(b"another secret of enough bytes"))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://x/y", "give a file, sqlite:///FILE or postgresql"),
        ("sqlite://", "names no file"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot be used"),
        ("/proc/no/such/ledger.db", "cannot be opened"),
    ],
)
def test_what_is_no_ledger_is_said_in_a_line(url: str, problem: str, key: Key) -> None:
    with pytest.raises(LedgerError, match=problem):
        Ledger.open(url, key)


def test_a_file_that_is_no_database(tmp_path: Path, key: Key) -> None:
    (tmp_path / "x.db").write_text("no database at all, but text that is long enough " * 50)
    with pytest.raises(LedgerError, match=r"x\.db cannot be used: file is not a database"):
        Ledger.open(str(tmp_path / "x.db"), key)


def test_a_new_file_is_private_and_urls_name_it(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "deep" / "ledger.db"
    (name,) = add(Ledger.open(f"sqlite:///{path}", key))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Ledger.open(str(path), key).get(name).id == name


def test_a_person_is_found_by_name_but_not_stored(ledger: Ledger) -> None:
    who = [{"line": LINE, "person": ledger.person(name)} for name in ("Ann", "Bob", "Ann")]
    add_many(ledger, who)
    assert [r.number for r in ledger.requests(person="Ann ")] == [1, 3]
    assert "Ann" not in str(ledger.requests())


def test_ten_thousand_requests_are_listed_and_checked_in_two_seconds(ledger: Ledger) -> None:
    add(ledger, 10_000)
    for _ in range(5):  # others may be using the machine
        start = time.perf_counter()
        assert len(ledger.requests()) == 10_000
        listed = time.perf_counter() - start
        start = time.perf_counter()
        found = check(ledger)
        checked = time.perf_counter() - start
        assert found.ok
        assert (found.requests, found.entries) == (10_000, 10_000)
        if max(listed, checked) < 2:
            break
    assert max(listed, checked) < 2


def machine(fresh: Callable[[], str], key: Key) -> type[RuleBasedStateMachine]:
    """Random events on a ledger, beside a dictionary of what should have become of them."""

    class Machine(RuleBasedStateMachine):
        names = Bundle("names")

        def __init__(self) -> None:
            super().__init__()
            self.ledger = Ledger.open(fresh(), key)
            self.states: dict[str, str] = {}
            self.entries = 0

        @rule(target=names)
        def add(self) -> str:
            (name,) = add(self.ledger)
            self.states[name] = "received"
            self.entries += 1
            return name

        @rule(name=names, event=st.sampled_from(sorted(set(EVENTS) - {"added"})))
        def happen(self, name: str, event: str) -> None:
            allowed, target = EVENTS[event]
            legal = self.states[name] in allowed
            try:
                with self.ledger.writing() as writer:
                    writer.change(name, event, last=event)
            except LedgerError:
                assert not legal
            else:
                assert legal
                self.states[name] = target or self.states[name]
                self.entries += 1

        @rule(name=names, event=st.sampled_from(["planned", "superseded", "closed"]))
        def fail_half_way(self, name: str, event: str) -> None:
            with (
                pytest.raises((LedgerError, RuntimeError)),
                self.ledger.writing() as writer,
            ):
                writer.change(name, event)
                raise RuntimeError

        @invariant()
        def agrees(self) -> None:
            assert {r.id: r.state for r in self.ledger.requests()} == self.states
            found = check(self.ledger)
            assert found.ok, found.problems
            assert found.entries == self.entries

    return Machine


def test_any_order_of_events_keeps_ledger_and_history_in_step(
    fresh_url: Callable[[], str], key: Key
) -> None:
    run_state_machine_as_test(
        machine(fresh_url, key),
        settings=settings(
            max_examples=5,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


HOLD = """
import sys, time
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key
from unlearn.apps.requests.ledger.ledger import Ledger
url, secret, line = sys.argv[1:]
with Ledger.open(url, Key(bytes.fromhex(secret))).hold(line):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_line_is_held_by_one_process_and_freed_by_its_death(
    ledger: Ledger, url: str, lineage_key: str
) -> None:
    (name,) = add(ledger)
    command = [sys.executable, "-c", HOLD, url, lineage_key, LINE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        who = rf"another process \(pid {other.pid} on {socket.gethostname()}\) is at work on the"
        with pytest.raises(BusyError, match=who), ledger.hold(LINE):
            pass
        with ledger.hold(OTHER):  # which is another line
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    wait_until_free(ledger)
    with ledger.hold(LINE) as mine:
        with pytest.raises(BusyError, match=f"pid {os.getpid()} "), ledger.hold(LINE):
            pass
        with ledger.writing(mine) as writer:
            writer.change(name, "located")
    with ledger.hold(LINE):
        pass
    assert check(ledger).ok


def wait_until_free(ledger: Ledger) -> None:
    """A server takes a moment to see that a process is dead."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(BusyError), ledger.hold(LINE):
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_lock_that_went_with_its_connection_changes_nothing(
    make_url: Callable[[str], str], key: Key
) -> None:
    ledger = Ledger.open(make_url("postgresql"), key)
    (name,) = add(ledger)
    with ledger.hold(LINE) as hold:
        assert hold.connection is not None
        pid = hold.connection.scalar(sa.text("SELECT pg_backend_pid()"))
        hold.connection.rollback()
        with ledger.engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        for problem in ("cannot be used: .*terminat", "was lost; nothing was changed"):
            with (  # the second time over a new connection, without the lock
                pytest.raises(LedgerError, match=problem),
                ledger.writing(hold) as writer,
            ):
                writer.change(name, "located")
    assert ledger.get(name).state == "received"
    with ledger.hold(LINE):
        pass


def test_a_lock_whose_file_was_put_aside_is_lost(tmp_path: Path, key: Key) -> None:
    ledger = Ledger.open(str(tmp_path / "ledger.db"), key)
    (name,) = add(ledger)
    with ledger.hold(LINE) as hold:
        (tmp_path / "ledger.db.locks").rename(tmp_path / "aside")
        with (
            pytest.raises(LedgerError, match="was lost; nothing was changed"),
            ledger.writing(hold) as writer,
        ):
            writer.change(name, "located")


def test_a_ledger_behind_a_link_has_the_same_locks(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "deep" / "ledger.db"
    ledger = Ledger.open(str(path), key)
    (tmp_path / "link.db").symlink_to(path)
    with (
        ledger.hold(LINE),
        pytest.raises(BusyError),
        Ledger.open(str(tmp_path / "link.db"), key).hold(LINE),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "problem"),
    [(errno.ENOLCK, "keep the ledger on a local disk, or on PostgreSQL"), (None, "has no flock")],
)
def test_where_nothing_can_be_locked_is_said_in_a_line(
    tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch, error: int | None, problem: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error or 0))

    ledger = Ledger.open(str(tmp_path / "ledger.db"), key)
    if error is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(LedgerError, match=problem), ledger.hold(LINE):
        pass


ADD = """
import sys
from unlearn.provenance.keys import Key
from unlearn.apps.requests.ledger.ledger import Ledger
url, secret, line = sys.argv[1:]
ledger = Ledger.open(url, Key(bytes.fromhex(secret)))
for i in range(20):
    with ledger.writing() as writer:
        writer.add([{"line": line, "label": str(i)}])
"""


@pytest.mark.slow
def test_processes_that_write_at_once_make_one_history(
    url: str, lineage_key: str, key: Key
) -> None:
    command = [sys.executable, "-c", ADD, url, lineage_key, LINE]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    ledger = Ledger.open(url, key)
    found = check(ledger)
    assert found.ok
    assert found.entries == 40
    assert [r.number for r in ledger.requests()] == list(range(1, 41))
