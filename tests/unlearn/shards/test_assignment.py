"""Who goes to which shard, in what order, from what seed: by the key, and never by who is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn import Records
from unlearn.errors import DataError, OptionError
from unlearn.provenance.keys import Key
from unlearn.shards.assignment import assigned, shard_of, shard_seed, units_of

KEY, OTHER = Key(b"k" * 32), Key(b"o" * 32)


def _rows(people: int, each: int = 3) -> list[dict[str, Any]]:
    return [
        {"id": f"p{p}r{r}", "subject": f"Person {p}", "text": f"{p} says {r}.", "tenant": p % 4}
        for p in range(people)
        for r in range(each)
    ]


def _dealt(rows: list[dict[str, Any]], shards: int = 4, key: Key = KEY) -> list[list[str]]:
    records = Records.from_rows(rows)
    dealt = assigned(records, units_of(records, records, "subject", key), shards, key)
    return [[records.ids[p] for p in own] for own in dealt.positions]


def test_a_person_is_whole_in_one_shard_and_all_records_are_dealt_out() -> None:
    dealt = _dealt(_rows(20))
    assert sorted(name for own in dealt for name in own) == sorted(r["id"] for r in _rows(20))
    for person in range(20):
        homes = [i for i, own in enumerate(dealt) if any(n.startswith(f"p{person}r") for n in own)]
        assert homes == [shard_of(f"Person {person}", 4, KEY)]


def test_neither_the_order_of_the_file_nor_who_else_is_there_moves_a_record() -> None:
    rows = _rows(20)
    whole = _dealt(rows)
    assert _dealt(rows[::-1]) == whole
    without = _dealt([row for row in rows if row["subject"] != "Person 7"])
    assert without == [[n for n in own if not n.startswith("p7r")] for own in whole]


def test_another_key_deals_otherwise_and_seeds_otherwise() -> None:
    units = [f"Person {i}" for i in range(40)]
    assert [shard_of(u, 8, KEY) for u in units] != [shard_of(u, 8, OTHER) for u in units]
    assert shard_seed(0, 0, KEY) != shard_seed(0, 0, OTHER)


def test_seeds_differ_by_shard_and_by_the_seed_given_and_fit_into_32_bits() -> None:
    seeds = {shard_seed(seed, shard, KEY) for seed in range(4) for shard in range(32)}
    assert len(seeds) == 4 * 32
    assert max(seeds) < 2**31


def test_a_shard_has_each_content_once() -> None:
    rows = _rows(2)
    rows.append({**rows[0], "id": "again"})
    records = Records.from_rows(rows)
    dealt = assigned(records, units_of(records, records, "subject", KEY), 4, KEY)
    assert (sum(map(len, dealt.positions)), dealt.repeated) == (6, 1)


def test_a_content_of_two_people_is_in_the_shards_of_both() -> None:
    homes = {shard_of(f"Person {i}", 4, KEY): f"Person {i}" for i in range(20)}
    rows = [
        {"id": f"{i}", "subject": homes[i], "text": "The same for both."} for i in sorted(homes)[:2]
    ]
    assert sorted(map(len, _dealt(rows))) == [0, 0, 1, 1]


def test_units_can_be_records_or_a_field_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in _rows(5)))
    records = Records.load(file)
    assert len(set(units_of(file, records, "record", KEY))) == 15
    assert units_of(file, records, "tenant", KEY)[:4] == ["0", "0", "0", "1"]
    with pytest.raises(OptionError, match=r"no such field \(did you mean 'tenant'"):
        units_of(file, records, "tennant", KEY)
    with pytest.raises(OptionError, match="name the file"):
        units_of(records, records, "tenant", KEY)


def test_who_has_no_subject_is_named() -> None:
    rows = _rows(2)
    del rows[4]["subject"]
    records = Records.from_rows(rows)
    with pytest.raises(DataError, match=r"1 record\(s\) have no subject.*'p1r1'.*--shard-by"):
        units_of(records, records, "subject", KEY)
