"""Whatever is changed behind the ledger's back is found, and the first broken entry is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from unlearn.apps.cli import run
from unlearn.apps.requests.check import check
from unlearn.apps.requests.ledger import chain as _chain
from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.chain import Entry, canonical, first_break, link
from unlearn.apps.requests.ledger.escrow import Deposit, Escrow
from unlearn.apps.requests.ledger.ledger import Ledger, entries_after
from unlearn.apps.requests.ledger.sealing import Sealer
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key

from ..conftest import add_many

LINE = "sha256:" + "a" * 64


@pytest.fixture
def five(ledger: Ledger) -> Ledger:
    """A ledger with requests 1 to 4 added, and the second located: five entries."""
    names = add_many(ledger, [{"line": LINE, "label": str(i)} for i in range(4)])
    with ledger.writing() as writer:
        writer.change(names[1], "located", records=["d"])
    assert check(ledger).ok
    return ledger


def execute(ledger: Ledger, *statements: sa.Executable) -> None:
    with ledger.engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)


def rows(ledger: Ledger) -> list[Entry]:
    with ledger.engine.begin() as connection:
        return entries_after(connection, 0)


def edit(ledger: Ledger) -> None:
    content = rows(ledger)[1].content.replace('"label":"1"', '"label":"x"')
    execute(
        ledger, schema.history.update().where(schema.history.c.seq == 2).values(content=content)
    )


def delete(ledger: Ledger) -> None:
    execute(ledger, schema.history.delete().where(schema.history.c.seq == 3))


def delete_and_close_the_gap(ledger: Ledger) -> None:
    table = schema.history
    delete(ledger)
    for seq in (4, 5):
        execute(ledger, table.update().where(table.c.seq == seq).values(seq=seq - 1))


def swap(ledger: Ledger) -> None:
    table = schema.history
    for old, new in ((2, 99), (3, 2), (99, 3)):
        execute(ledger, table.update().where(table.c.seq == old).values(seq=new))


def truncate(ledger: Ledger) -> None:
    execute(ledger, schema.history.delete().where(schema.history.c.seq == 5))


def truncate_and_move_the_head(ledger: Ledger) -> None:
    truncate(ledger)
    execute(ledger, schema.head.update().values(seq=4, hash=rows(ledger)[3].hash))


def rechain(ledger: Ledger) -> None:
    """Compute all hashes anew, as anybody can."""
    previous = _chain.START
    for entry in rows(ledger):
        previous = link(previous, entry.content)
        update = schema.history.update().where(schema.history.c.seq == entry.seq)
        execute(ledger, update.values(hash=previous))
    execute(ledger, schema.head.update().values(hash=previous))


def rewrite_the_chain_without_the_key(ledger: Ledger) -> None:
    edit(ledger)
    rechain(ledger)


def renumber(ledger: Ledger) -> None:
    """Let requests 2 and 3 change their numbers, hashes computed anew: entry 2 comes first."""
    table = schema.history
    for seq, old, new in ((2, 2, 3), (3, 3, 2)):
        content = rows(ledger)[seq - 1].content.replace(f'"number":{old}', f'"number":{new}')
        assert content != rows(ledger)[seq - 1].content
        execute(ledger, table.update().where(table.c.seq == seq).values(content=content))
    rechain(ledger)


def insert(ledger: Ledger) -> None:
    row = rows(ledger)[4]._replace(seq=6)
    execute(ledger, schema.history.insert().values(**row._asdict()))


def hide_the_last_entry(ledger: Ledger) -> None:
    """Give the newest entry to another request, as whoever wants it undone would."""
    names = [json.loads(entry.content)["request"] for entry in rows(ledger)]
    content = rows(ledger)[4].content.replace(names[4], names[0])
    table = schema.history
    execute(ledger, table.update().where(table.c.seq == 5).values(content=content))


def another_mac(ledger: Ledger) -> None:
    execute(ledger, schema.history.update().where(schema.history.c.seq == 2).values(mac="0" * 64))


CASES: dict[str, tuple[Callable[[Ledger], None], str]] = {
    "edit": (edit, "history entry 2 .* is not what was written"),
    "delete": (delete, "history entry 3 is missing: the next one there is 4"),
    "delete and close the gap": (delete_and_close_the_gap, "history entry 3 .* is not what was"),
    "swap": (swap, "history entry 2 .* is not what was written"),
    "truncate": (truncate, "cut off: it ends at 4, and 5 were written"),
    "truncate, head too": (truncate_and_move_the_head, "the head .* without the ledger's key"),
    "new chain": (rewrite_the_chain_without_the_key, "history entry 2 .* without the ledger's key"),
    "numbers": (renumber, "history entry 2 .* without the ledger's key"),
    "entry put in": (insert, "history entry 6 .* is not what was written"),
    "entry hidden": (hide_the_last_entry, "history entry 5 .* is not what was written"),
    "mac": (another_mac, "history entry 2 .* without the ledger's key"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_broken_entry_is_named(five: Ledger, name: str) -> None:
    tamper, problem = CASES[name]
    tamper(five)
    found = check(five)
    assert not found.ok
    assert re.search(problem, found.problems[0]), found.problems


@pytest.mark.parametrize("tamper", [truncate, truncate_and_move_the_head])
def test_no_command_writes_a_valid_head_over_what_was_tampered_with(
    five: Ledger, url: str, key: Key, tamper: Callable[[Ledger], None]
) -> None:
    tamper(five)
    before = check(five)
    assert not before.ok
    with pytest.raises(LedgerError, match="changed from outside: the .*`unlearn request check`"):
        add_many(five, [{"line": LINE}])
    with pytest.raises(LedgerError, match="put a backup in its place"):
        Ledger.open(url, key)
    assert check(Ledger.open(url, key, examine=True)) == before


@pytest.mark.parametrize("name", sorted(set(CASES) - {"mac"}))
def test_nothing_is_read_or_built_on_a_history_that_was_tampered_with(
    five: Ledger, url: str, key: Key, name: str
) -> None:
    number_two = five.get("2")
    CASES[name][0](five)
    with pytest.raises(LedgerError, match="the ledger was changed from outside"):
        Ledger.open(url, key)
    examined = Ledger.open(url, key, examine=True)
    reads: list[Callable[[], object]] = [
        lambda: examined.get("2"),
        examined.requests,
        lambda: examined.history(number_two.id),
        lambda: add_many(examined, [{"line": LINE}]),
    ]
    for read in reads:
        with pytest.raises(LedgerError, match="the ledger was changed from outside"):
            read()


def test_what_was_read_before_stays_what_it_was(five: Ledger, url: str, key: Key) -> None:
    """A process that has read the history goes on with that, not with what rows say now."""
    before = five.get("2")
    edit(five)
    assert five.get("2") == before
    with five.writing() as writer:
        writer.change(before.id, "located", records=["e"])
    found = check(Ledger.open(url, key, examine=True))
    assert "history entry 2" in found.problems[0]  # and it is found all the same


def test_an_entry_says_the_number_of_its_request(five: Ledger) -> None:
    numbers = [json.loads(entry.content).get("number") for entry in rows(five)]
    assert numbers == [1, 2, 3, 4, None]


def test_a_last_entry_put_in_place_of_another_is_refused(five: Ledger) -> None:
    table = schema.history
    content = rows(five)[4].content.replace('"d"', '"e"')
    values = {"content": content, "hash": link(rows(five)[3].hash, content)}
    execute(five, table.update().where(table.c.seq == 5).values(**values))
    with pytest.raises(LedgerError, match="entry 5, the last one, is not the one that the head"):
        add_many(five, [{"line": LINE}])


def test_a_head_that_was_deleted_is_not_written_anew(five: Ledger, url: str, key: Key) -> None:
    execute(five, schema.head.delete())
    for _ in range(2):
        with pytest.raises(LedgerError, match="a history and no head"):
            Ledger.open(url, key)


def test_a_tampered_ledger_is_refused_by_commands_and_told_of_by_check(
    five: Ledger, url: str, lineage_key: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    truncate_and_move_the_head(five)
    for words, code in ((["list"], 2), (["check"], 1), (["list", "--check"], 1)):
        assert run(["request", *words, "--ledger", url]) == code
        assert "without the ledger's key" in " ".join("".join(capfd.readouterr()).split())


class Case(NamedTuple):
    """A chain as it was, and what became of it."""

    entries: list[Entry]
    broken: list[Entry]


@st.composite
def tampered(draw: st.DrawFn, key: Key) -> Case:
    contents = draw(st.lists(st.text(max_size=8), min_size=2, max_size=6))
    entries, previous = [], _chain.START
    for seq, text in enumerate(contents, start=1):
        content = canonical({"seq": seq, "request": "r", "text": text})
        previous = link(previous, content)
        entries.append(Entry(seq, content, previous, _chain.entry_mac(key, previous)))
    broken = list(entries)
    place = draw(st.integers(0, len(entries) - 2))
    match draw(st.sampled_from(["edit", "delete", "swap", "repeat"])):
        case "edit":
            broken[place] = broken[place]._replace(content=broken[place].content + " ")
        case "delete":
            del broken[place]
        case "swap":
            broken[place], broken[place + 1] = broken[place + 1], broken[place]
        case "repeat":
            broken.insert(place, broken[place])
    return Case(entries, broken)


@given(st.data())
def test_no_tampering_within_a_chain_goes_unnoticed(data: st.DataObject) -> None:
    key = Key(b"x" * 32)
    case = data.draw(tampered(key))
    assert not list(first_break(case.entries, key))
    assert len(list(first_break(case.broken, key))) == 1


def test_an_old_copy_is_found_by_a_head_noted_elsewhere(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(str(path), key)
    add_many(ledger, [{"line": LINE}])
    early = check(ledger).head
    with sqlite3.connect(path) as source, sqlite3.connect(tmp_path / "copy.db") as copy:
        source.backup(copy)
    source.close()
    copy.close()
    add_many(ledger, [{"line": LINE}])
    late = check(ledger).head
    assert check(ledger, expect_head=early).ok
    assert check(ledger, expect_head=late).ok
    old = Ledger.open(str(tmp_path / "copy.db"), key)
    assert check(old).ok  # from itself it cannot be told
    assert "put back to an older copy" in check(old, expect_head=late).problems[0]


@pytest.fixture
def kept(tmp_path: Path, key: Key) -> tuple[Ledger, list[str]]:
    """Two requests with escrow."""
    ledger = Ledger.open(str(tmp_path / "ledger.db"), key)
    names = add_many(ledger, [{"line": LINE}, {"line": LINE}])
    for name in names:
        with ledger.writing() as writer:
            deposit = ledger.escrow.put(name, {"text": f"the secret of {name}"})
            writer.change(name, "located", escrow=vars(deposit))
    assert check(ledger).ok
    return ledger, names


def files(ledger: Ledger, names: list[str]) -> list[Path]:
    return [ledger.escrow.folder / ledger.get(n).facts["escrow"]["name"] for n in names]


def test_escrow_is_private_and_opens_only_with_its_key(kept: tuple[Ledger, list[str]]) -> None:
    ledger, names = kept
    one = files(ledger, names)[0]
    assert one.stat().st_mode & 0o777 == 0o600
    assert one.parent.stat().st_mode & 0o777 == 0o700
    assert b"secret" not in one.read_bytes()
    deposit = Deposit(**ledger.get(names[0]).facts["escrow"])
    assert ledger.escrow.get(names[0], deposit) == {"text": f"the secret of {names[0]}"}
    stranger = Escrow(ledger.escrow.folder, Sealer(Key(b"y" * 32), ledger.id))
    with pytest.raises(LedgerError, match="cannot be opened with the key"):
        stranger.get(names[0], deposit)
    os.chmod(one, 0o644)  # noqa: PTH101
    assert "can be read by others" in check(ledger).problems[0]


def test_escrow_files_swapped_changed_or_gone_are_found(kept: tuple[Ledger, list[str]]) -> None:
    ledger, names = kept
    one, two = files(ledger, names)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert len([p for p in check(ledger).problems if "is not the one that was written" in p]) == 2
    # even where the ledger's digests were swapped along, the content says whose it is
    with pytest.raises(LedgerError, match=f"escrow of request {names[1]}: cannot be opened"):
        ledger.escrow.get(
            names[1], Deposit(two.name, ledger.get(names[0]).facts["escrow"]["sha256"])
        )
    one.write_bytes(first)
    two.unlink()
    assert "is gone" in check(ledger).problems[0]


def test_leftovers_of_a_killed_command_are_noted_and_shredded(
    kept: tuple[Ledger, list[str]],
) -> None:
    ledger, names = kept
    stray = ledger.escrow.put(names[0], "never told the ledger")
    found = check(ledger)
    assert found.ok
    assert stray.name in found.notes[0]
    with ledger.writing() as writer:
        ledger.escrow.shred(*ledger.escrow.strays(writer.deposits()))
    assert not check(ledger).notes
    assert all(path.exists() for path in files(ledger, names))
    ledger.escrow.shred(*files(ledger, names), ledger.escrow.folder / "gone")
    assert not any(path.exists() for path in files(ledger, names))


def test_adapter_weights_edited_after_the_run_are_found(
    adapter: Path, tmp_path: Path, key: Key
) -> None:
    from unlearn.provenance.lineage import weights_digest

    folder = tmp_path / "made"
    shutil.copytree(adapter, folder)
    digest = weights_digest(folder)
    ledger = Ledger.open(str(tmp_path / "ledger.db"), key)
    (name,) = add_many(ledger, [{"line": LINE}])
    made = {"digest": digest, "folder": ledger.sealer.seal(str(folder), f"adapter {digest}")}
    with ledger.writing() as writer:
        writer.change(name, "located")
        writer.change(name, "unlearned", after=made)
    assert check(ledger).ok
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert "was changed after it was made" in check(ledger).problems[0]
    shutil.rmtree(folder)
    assert "is gone" in check(ledger).problems[0]
    assert json.dumps(dict(ledger.get(name).facts)).find(str(folder)) == -1
