"""The log of looks: what it notes, what it notices, and what it counts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn.provenance import looks as looks_module
from unlearn.provenance.keys import Key, home
from unlearn.provenance.looks import (
    History,
    Look,
    LookLog,
    counted,
    policy_came_later,
    request_digest,
)

KEY = Key(b"0123456789abcdef")


def look(model: int = 0, references: Any = (), **more: Any) -> Look:
    """A look at one request; references are named by numbers, all of them eligible."""
    names = tuple(sorted(f"sha256:{n:064x}" for n in references))
    plain = {"request": "r", "form": "f", "policy": "p", "eligible": names, "origins": ("o",)}
    return Look(**plain | {"model": f"sha256:m{model}", "references": names} | more)


@pytest.fixture
def log(tmp_path: Path) -> LookLog:
    return LookLog(KEY, tmp_path)


def test_a_look_is_noted_once(log: LookLog) -> None:
    first = log.register(look(references=range(3)))
    assert first == History((look(references=range(3)),), 0, "holds")
    assert log.register(look(references=range(3))) == first
    assert len(log.path.read_bytes().splitlines()) == 1
    for other in (
        look(1, range(3)),
        look(references=range(4)),
        look(references=range(3), policy="q"),
        look(references=range(3), form="g"),
        look(references=range(3), scope="comparison"),
    ):
        assert log.register(other).looks[-1] == other
    assert len(log.path.read_bytes().splitlines()) == 6
    assert log.register(look(references=range(3))).at == 0
    assert log.register(look(request="another")).looks == (look(request="another"),)


def test_both_files_are_the_users_own_and_lie_in_the_home() -> None:
    log = LookLog(KEY)
    log.register(look())
    assert log.path == home() / "looks.jsonl"
    files = [log.path, home() / "looks.head"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * 2
    assert b"0123456789abcdef" not in b"".join(path.read_bytes() for path in files)


def test_a_request_is_its_records_in_any_order_and_only_with_the_key() -> None:
    digest = request_digest(KEY, ["a", "b"])
    assert digest == request_digest(KEY, ["b", "a"])
    assert digest != request_digest(KEY, ["a"])
    assert digest != request_digest(Key(b"another key of 16"), ["a", "b"])


def _lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    return apply


DAMAGE: dict[str, Callable[[Path], None]] = {
    "edited": _lines(lambda rows: [rows[0].replace(b"sha256:m0", b"sha256:m9"), *rows[1:]]),
    "deleted": _lines(lambda rows: [rows[0], *rows[2:]]),
    "first deleted": _lines(lambda rows: rows[1:]),
    "cut off": _lines(lambda rows: rows[:-1]),
    "torn after it was whole": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "swapped": _lines(lambda rows: [rows[1], rows[0], *rows[2:]]),
    "repeated": _lines(lambda rows: [*rows, rows[-1]]),
    "no line": _lines(lambda rows: [rows[0], b"\xff[]\n", *rows[1:]]),
    "nested": _lines(lambda rows: [*rows, b"[" * 100_000 + b"\n"]),
    "a list": _lines(lambda rows: [*rows, b"[1]\n"]),
    "of another key": _lines(lambda rows: [rows[0].replace(KEY.id.encode(), b"0" * 12), *rows[1:]]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "head gone": lambda path: path.with_suffix(".head").unlink(),
    "head nonsense": lambda path: path.with_suffix(".head").write_bytes(b"[]"),
    "head edited": lambda path: path.with_suffix(".head").write_bytes(
        path.with_suffix(".head").read_bytes().replace(b'"entries":4', b'"entries":3')
    ),
    "mac of no text": _lines(
        lambda rows: [*rows[:-1], json.dumps(json.loads(rows[-1]) | {"mac": 1}).encode() + b"\n"]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_was_done_to_the_log_is_noticed_and_stays_noticed(
    log: LookLog, damage: Callable[[Path], None]
) -> None:
    for i in range(4):
        assert log.register(look(i)).log == "holds"
    damage(log.path)
    after = log.register(look(4))
    assert after.log == "broken"
    assert after.looks[-1] == look(4)  # it is noted all the same
    assert log.register(look(5)).log == "broken"
    assert log.register(look(5)).log == "broken"
    assert len(set(after.looks)) <= 5


def test_lines_that_hold_by_themselves_are_counted_in_a_broken_log(log: LookLog) -> None:
    for i in range(4):
        log.register(look(i, range(8 - i)))
    DAMAGE["deleted"](log.path)
    found = counted(log.register(look(5, range(3))))
    assert (found.log, found.models, len(found.unused_references)) == ("broken", 4, 5)


def test_what_a_kill_leaves_is_repaired(log: LookLog) -> None:
    log.register(look(0))
    whole = log.path.read_bytes()
    log.register(look(1))
    second = log.path.read_bytes()[len(whole) :]
    head = log.path.with_suffix(".head")
    for cut in (1, len(second) // 2, len(second) - 1):
        log.path.unlink(), head.unlink()
        log.register(look(0))
        with log.path.open("ab") as file:
            file.write(second[:cut])
        assert log.register(look(1)).log == "holds"
        assert len(log.path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("before", [0, 1])
def test_a_kill_between_the_line_and_the_head_loses_nothing(
    log: LookLog, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    for i in range(before):
        log.register(look(i))
    write = os.fsync

    def kill(descriptor: int) -> None:
        write(descriptor)
        if log.path.read_bytes().count(b"\n") > before:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", kill)
        with pytest.raises(KeyboardInterrupt):
            log.register(look(before))
    again = log.register(look(before))
    assert (again.log, again.at, len(again.looks)) == ("holds", before, before + 1)
    assert log.register(look(before + 1)).log == "holds"


def test_two_keys_share_a_file_without_reading_each_other(log: LookLog, tmp_path: Path) -> None:
    other = LookLog(Key(b"another key of 16"), tmp_path)
    for i in range(3):
        assert len(log.register(look(i)).looks) == i + 1
        assert other.register(look(i, policy="q")) == History(
            tuple(look(n, policy="q") for n in range(i + 1)), i, "holds"
        )
    assert log.path == other.path


def test_processes_append_one_after_the_other(log: LookLog) -> None:
    script = (
        "import sys; from pathlib import Path; from unlearn.provenance.keys import Key\n"
        "from unlearn.provenance.looks import Look, LookLog\n"
        "log = LookLog(Key(b'0123456789abcdef'), Path(sys.argv[1]))\n"
        "print([log.register(Look('r', f'sha256:{sys.argv[2]}-{i}', '', (), '')).log\n"
        "       for i in range(25)].count('holds'))\n"
    )
    words = [sys.executable, "-c", script, str(log.path.parent)]
    running = [
        subprocess.Popen([*words, str(n)], stdout=subprocess.PIPE, text=True) for n in range(2)
    ]
    assert [process.communicate()[0].strip() for process in running] == ["25", "25"]
    found = counted(log.register(look()))
    assert (found.log, found.models, found.nth) == ("holds", 51, 51)


def test_a_home_that_cannot_be_written_or_is_held_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    blocked = LookLog(KEY, tmp_path / "file").register(look())
    assert blocked == History((look(),), 0, "none")
    fcntl = pytest.importorskip("fcntl")
    log = LookLog(KEY, tmp_path)
    log.register(look(1))
    monkeypatch.setattr(looks_module, "_PATIENCE", 0.05)
    with log.path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert log.register(look()).log == "none"
    assert log.register(look()).log == "holds"


def history(*looks: Look) -> History:
    return History(looks, len(looks) - 1, "holds")


def test_models_and_sets_of_references_are_counted_by_scope() -> None:
    compared = [look(i, range(2), scope="comparison") for i in range(4)]
    found = counted(history(*compared, look(3), look(4, range(3)), look(5, range(4))))
    assert found[:5] == ("request", 3, 3, 3, 2)
    assert counted(History(tuple(compared), 1, "holds"))[:5] == ("comparison", 4, 2, 0, 1)
    # other settings of the same weights, such as an adapter's scale, are another model
    assert counted(history(look(), look(form="scaled"))).models == 2


def unused(*looks: Look) -> set[int]:
    found = counted(history(*looks)).unused_references
    return {int(digest.removeprefix("sha256:"), 16) for digest in found}


def test_references_that_are_left_out_are_named() -> None:
    assert unused(look(references=range(5)), look(references=range(8))) == set()
    assert unused(look(references=range(8)), look(1, references=range(5))) == {5, 6, 7}
    assert unused(look(references=range(8)), look()) == set(range(8))
    # of another scope, of models of another origin, and such as were no references after all
    assert unused(look(references=range(8), scope="comparison"), look()) == set()
    assert unused(look(references=range(8), origins=("x",)), look(1)) == set()
    assert unused(look(references=range(8), origins=("x",)), look(0)) == set(range(8))
    assert unused(look(references=range(8), eligible=()), look()) == set()
    # a reference that is itself judged cannot be among those that it is compared with
    own = look(references=range(3)).references[0]
    assert unused(look(references=range(3)), look(references=(1, 2))._replace(model=own)) == set()


def test_half_splits_give_way_to_full_references_and_not_the_other_way() -> None:
    halves = look(references=range(5))
    halves = halves._replace(partial=halves.eligible)
    full = look(references=range(10, 15))
    assert unused(halves, full) == set()
    assert unused(full, halves) == set(range(10, 15))
    assert unused(halves, look()) == set(range(5))
    both = look(references=(0, 10, 11, 12, 13, 14))
    assert unused(halves, both._replace(partial=both.eligible[:1])) == {1, 2, 3, 4}


def test_a_reference_that_had_to_be_deleted_is_not_missed(log: LookLog) -> None:
    log.note_purge("sha256:1")  # nothing was ever looked at: there is nothing to note
    assert not log.path.exists()
    first = look(references=range(5))
    log.register(first)
    for _ in range(2):
        log.note_purge(first.references[1])
    assert len(log.path.read_bytes().splitlines()) == 2
    found = counted(log.register(look(1, (0, 2, 3))))
    assert found.unused_references == (first.references[4],)
    assert (found.purged_references, found.models, found.log) == (1, 2, "holds")
    log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[::2]))
    assert counted(log.register(look(2, (0, 2, 3))))[5:] == (first.references[1::3], 0, "broken")


def test_a_policy_came_later_if_an_earlier_look_had_another() -> None:
    assert not policy_came_later(history(look(), look(references=range(5))))
    assert policy_came_later(history(look(policy=""), look()))
    assert policy_came_later(history(look(policy="q", form="g"), look()))
    assert not policy_came_later(history(look(1, policy="q"), look()))
    # what followed a look cannot have chosen its policy
    assert not policy_came_later(History((look(), look(policy="q")), 0, "holds"))
