"""A ledger of schema 1 is taken over where its history is whole, and its table says the same."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from unlearn.apps.requests.check import check
from unlearn.apps.requests.ledger import ledger as ledgers
from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.chain import START, canonical, entry_mac, head_mac, link
from unlearn.apps.requests.ledger.engine import connect
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key

from ..conftest import add_many

LINE = "sha256:" + "a" * 64
IDS = [f"{digit}" * 12 for digit in "abc"]

OLD = sa.MetaData()
head = schema.head.to_metadata(OLD)
lines = sa.Table(
    "lines", OLD, sa.Column("line", sa.String(80), primary_key=True), sa.Column("lease", sa.Text)
)
requests = sa.Table(
    "requests",
    OLD,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(12), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("line", sa.ForeignKey("lines.line"), nullable=False, index=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("changed", sa.String(32), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)
history = sa.Table(
    "history",
    OLD,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("request", sa.ForeignKey("requests.id"), nullable=False, index=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("mac", sa.String(64), nullable=False),
)


@pytest.fixture
def old(url: str, key: Key) -> str:
    """Three requests, the second located, as schema 1 kept them; the URL."""
    at = "2026-01-01T00:00:00+00:00"
    events = [(name, "added", "received", {"line": LINE, "label": None}) for name in IDS]
    events += [(IDS[1], "located", "located", {"records": ["d"]})]
    entries, previous = [], START
    for seq, (name, event, state, facts) in enumerate(events, start=1):
        content = {"seq": seq, "at": at, "request": name, "event": event, "state": state}
        text = canonical({**content, "facts": facts})
        previous = link(previous, text)
        mac = entry_mac(key, previous)
        row = {"seq": seq, "request": name, "content": text, "hash": previous, "mac": mac}
        entries.append(row)
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(IDS, start=1):
        facts = {"line": LINE, **({"records": ["d"]} if number == 2 else {})}
        state = "located" if number == 2 else "received"
        row = {"number": number, "id": name, "state": state, "line": LINE}
        rows.append({**row, "created": at, "changed": at, "facts": canonical(facts)})
    made = connect(url)
    with made.begin() as connection:
        connection.execute(sa.schema.DropTable(schema.history))
        connection.execute(sa.schema.DropTable(schema.head))
        OLD.create_all(connection)
        mac = head_mac(key, "l" * 32, len(entries), previous)
        top = {"one": 1, "schema": 1, "ledger": "l" * 32, "key_id": key.id}
        connection.execute(head.insert(), {**top, "seq": 4, "hash": previous, "mac": mac})
        connection.execute(lines.insert(), {"line": LINE})
        connection.execute(requests.insert(), rows)
        connection.execute(history.insert(), entries)
    return url


def tables(url: str) -> set[str]:
    with connect(url).begin() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_a_ledger_of_schema_1_is_taken_over(old: str, key: Key) -> None:
    ledger = Ledger.open(old, key)
    assert tables(old) == {"head", "history"}
    assert [(r.number, r.id, r.state) for r in ledger.requests()] == [
        (1, IDS[0], "received"),
        (2, IDS[1], "located"),
        (3, IDS[2], "received"),
    ]
    assert ledger.get("2").facts == {"line": LINE, "records": ["d"]}
    found = check(ledger)
    assert found.ok
    assert (found.requests, found.entries) == (3, 4)
    (fresh,) = add_many(ledger, [{"line": LINE}])
    assert Ledger.open(old, key).get("4").id == fresh
    assert check(Ledger.open(old, key, examine=True)).ok


def execute(url: str, statement: sa.Executable) -> None:
    with connect(url).begin() as connection:
        connection.execute(statement)


def swap_numbers(url: str) -> None:
    for old, new in ((1, 9), (2, 1), (9, 2)):
        execute(url, requests.update().where(requests.c.number == old).values(number=new))


def close_a_row(url: str) -> None:
    execute(url, requests.update().where(requests.c.number == 3).values(state="closed"))


def edit_facts(url: str) -> None:
    execute(url, requests.update().where(requests.c.number == 3).values(facts="["))


def edit_the_history(url: str) -> None:
    execute(url, history.update().where(history.c.seq == 2).values(content="{}"))


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (swap_numbers, r"request b{12} \(number 1\): its number was changed"),
        (close_a_row, r"request c{12} \(number 3\): its state was changed"),
        (edit_facts, r"request c{12} \(number 3\): its facts was changed"),
        (edit_the_history, "history entry 2 is not what was written"),
    ],
)
def test_one_that_was_changed_from_outside_is_refused_and_told_of(
    old: str, key: Key, tamper: Callable[[str], None], problem: str
) -> None:
    tamper(old)
    for _ in range(2):
        with pytest.raises(LedgerError, match=problem):
            Ledger.open(old, key)
    assert tables(old) == {"head", "history", "lines", "requests"}
    (found, *_) = check(Ledger.open(old, key, examine=True)).problems
    assert re.search(problem, found), found


@pytest.mark.skipif(os.name != "posix", reason="fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("statement", range(9))
def test_a_kill_while_it_is_taken_over_leaves_it_as_it_was(
    old: str, key: Key, statement: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade_and_die() -> None:
        seen = iter(range(100))

        def count(*_: Any) -> None:
            if next(seen) == statement:
                os._exit(9)

        real = ledgers.upgrade
        made = connect(old)

        def watched(connection: sa.Connection, *rest: Any) -> None:
            sa.event.listen(made, "before_cursor_execute", count)
            sa.event.listen(made, "commit", count)
            real(connection, *rest)

        monkeypatch.setattr(ledgers, "upgrade", watched)
        Ledger(made, key)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=upgrade_and_die)
    process.start()
    process.join(60)
    assert process.exitcode in {0, 9}
    assert len(Ledger.open(old, key).requests()) == 3
    assert tables(old) == {"head", "history"}


def test_a_newer_schema_is_refused(url: str, key: Key) -> None:
    Ledger.open(url, key)
    execute(url, schema.head.update().values(schema=3))
    with pytest.raises(LedgerError, match="has schema 3; this version reads 2"):
        Ledger.open(url, key)
