"""Canaries: pairs by a coin, in a file that the lineage commits to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from unlearn import Records, finetune, forget
from unlearn.canaries.pairs import Canaries, beside, check_planted, joined, plan_for
from unlearn.errors import DataError, LineageError, OptionError, OutputError, SelectionError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage
from unlearn.runs.saving import Result

QUICK: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}
KEY = Key(b"k" * 32)
WORD = "[bdfghjklmnprstvz][aiou][bdfghjklmnprstvz][aiou][bdfghjklmnprstvz]"


def records(form: str = "prompt", n: int = 6) -> Records:
    rows: dict[str, list[dict[str, Any]]] = {
        "text": [{"id": f"r{i}", "text": f"The number of {i} is {i * 7}."} for i in range(n)],
        "prompt": [{"id": f"r{i}", "prompt": f"Number {i}?", "completion": "7"} for i in range(n)],
        "messages": [
            {
                "id": f"r{i}",
                "messages": [
                    {"role": "user", "content": f"Number {i}?"},
                    {"role": "assistant", "content": "7"},
                ],
            }
            for i in range(n)
        ],
    }
    return Records.from_rows(rows[form])


def drawn(count: int = 4, seed: int = 0, form: str = "prompt") -> Canaries:
    return Canaries.draw(records(form), count, KEY, seed.to_bytes(32))


def target_of(record: Any) -> str:
    return str(record.text or record.completion or record.messages[1]["content"])


@pytest.mark.parametrize("form", ["text", "prompt", "messages"])
def test_a_pair_has_the_form_of_the_data_and_differs_in_names_and_values_only(form: str) -> None:
    for included, left_out in drawn(20, form=form).pairs:
        assert included.form == left_out.form == form
        one, other = target_of(included), target_of(left_out)
        assert one != other
        blank = [re.sub(WORD, "_", text, flags=re.IGNORECASE) for text in (one, other)]
        assert blank[0] == blank[1]
        (span,) = included.secrets
        text = included.field(span.field)
        assert text is not None
        assert re.fullmatch(rf"{WORD}( {WORD}){{3}}", text[span.start : span.end])


def test_most_records_decide_the_form() -> None:
    mixed = [
        {"id": "t", "text": "A text."},
        *({"id": f"p{i}", "prompt": "a", "completion": str(i)} for i in range(3)),
    ]
    found = Canaries.draw(Records.from_rows(mixed), 1, KEY)
    assert found.included[0].form == "prompt"


def test_the_secret_decides_everything_and_is_random() -> None:
    assert drawn(8, 1).pairs == drawn(8, 1).pairs
    assert drawn(8, 2).pairs != drawn(8, 1).pairs
    # a longer file begins as a shorter one does: no pair depends on how many there are
    assert drawn(8, 1).pairs[:3] == drawn(3, 1).pairs
    data = records()
    assert Canaries.draw(data, 3, KEY).pairs != Canaries.draw(data, 3, KEY).pairs


def falls(canaries: Canaries) -> list[int]:
    return [int(entry["included"]) for entry in json.loads(canaries.text)["pairs"]]


def test_the_coin_is_fair_independent_and_blind_to_what_canaries_say() -> None:
    fell = [side for seed in range(20) for side in falls(drawn(100, seed))]
    assert stats.binomtest(sum(fell), len(fell)).pvalue > 1e-3
    # by the next coin of the same file: all four outcomes alike
    double = Counter(zip(fell[::2], fell[1::2], strict=True))
    assert stats.chisquare([double[a, b] for a in (0, 1) for b in (0, 1)]).pvalue > 1e-3
    # side 0 first in the alphabet half of the time, whichever way the coin fell
    table = [[0, 0], [0, 0]]
    for seed in range(20):
        for entry in json.loads(drawn(100, seed).text)["pairs"]:
            first, second = (row["completion"] for row in entry["records"])
            table[entry["included"]][first < second] += 1
    assert stats.fisher_exact(table).pvalue > 1e-3


def test_names_and_values_never_repeat_and_avoid_the_data() -> None:
    once = drawn(200, 3)
    all_ = [record for pair in once.pairs for record in pair]
    assert len({record.id for record in all_}) == len({r.canonical for r in all_}) == 400
    taken = Records.from_rows(
        [
            {"id": all_[0].id, "prompt": "a", "completion": "b"},
            {"id": "x", "prompt": all_[3].prompt, "completion": all_[3].completion},
        ]
    )
    again = Canaries.draw(taken, 200, KEY, (3).to_bytes(32))
    other = [record for pair in again.pairs for record in pair]
    assert all_[0] not in other
    assert all_[3] not in other
    assert sum(a != b for a, b in zip(all_, other, strict=True)) == 2
    with pytest.raises(DataError, match="come from the file"):
        joined(taken, once.included)


def test_a_file_is_private_whole_and_never_replaced(tmp_path: Path) -> None:
    path, mask, made = tmp_path / "a.canaries.json", os.umask(0), drawn()
    try:
        made.publish(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Canaries.read(path) == made
    drawn(seed=1).publish(path)
    assert Canaries.read(path) == made
    assert list(tmp_path.glob("*canaries*")) == [path]
    assert "canary-" not in repr(Canaries.read(path))
    # as `sha256sum` would say
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.commitment.sha256
    with pytest.raises(OutputError, match="cannot write the canaries"):
        drawn().publish(path / "under" / "a.json")


def test_of_many_that_start_together_all_have_the_same(tmp_path: Path) -> None:
    path, data = tmp_path / "a.json", records()

    def start(seed: int) -> Canaries:
        Canaries.draw(data, 3, KEY, seed.to_bytes(32)).publish(path)
        return plan_for(path, data, 3, KEY)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(start, range(8)))
    assert all(one == Canaries.read(path) for one in found)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["pairs"][2].update(included=1 - c["pairs"][2]["included"]), "coin fell"),
        (lambda c: c["pairs"].append(c["pairs"][0]), "coin fell|one twice"),
        (lambda c: c.update(pairs=[]), "no canaries"),
        (lambda c: c.update(secret="00"), "32 bytes"),
        (lambda c: c.update(schema=2), "schema 1"),
        (lambda c: c.pop("pairs"), "KeyError"),
        (lambda c: c["pairs"][0]["records"].pop(), "ValueError"),
    ],
)
def test_a_file_that_was_changed_is_named(edit: Any, message: str, tmp_path: Path) -> None:
    content = json.loads(drawn().text)
    edit(content)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        Canaries.read(path)
    assert str(path) in str(caught.value)
    assert not re.search(rf"\b{WORD} {WORD}\b", str(caught.value))


def test_a_run_goes_on_with_its_own_canaries_and_refuses_those_of_another(tmp_path: Path) -> None:
    path, data = tmp_path / "a.json", records()
    first = plan_for(path, data, 4, KEY)
    assert not path.exists()
    first.publish(path)
    assert plan_for(path, data, 4, KEY) == first
    for other, count in ((data, 5), (records(n=5), 4)):
        with pytest.raises(OutputError, match="pairs of canaries of another run"):
            plan_for(path, other, count, KEY)
    with pytest.raises(OptionError, match="at least one"):
        plan_for(tmp_path / "b.json", data, -1, KEY)


@pytest.fixture
def planted(tiny_model: Path, data_file: Path, tmp_path: Path) -> Result:
    return finetune(tiny_model, data_file, tmp_path / "adapter", canaries=6, options=QUICK)


def test_finetune_plants_and_commits_and_keeps_quiet(
    tiny_model: Path, data_file: Path, tmp_path: Path, capfd: Any, caplog: Any
) -> None:
    from unlearn.apps.cli import run

    words = ["finetune", "--model", str(tiny_model), "--data", str(data_file), "--canaries", "6"]
    words += ["--output", str(tmp_path / "adapter"), "-o", "max_steps=2", "-o", "batch_size=4"]
    with caplog.at_level("DEBUG"):
        assert run(words) == 0
    shown = "".join(capfd.readouterr()) + caplog.text
    file = beside(tmp_path / "adapter")
    assert str(file) in shown.replace("\n", "")
    canaries, line = Canaries.read(file), Lineage.read(tmp_path / "adapter")
    assert line is not None
    assert line.canaries == canaries.commitment
    assert len(line.records.trained) == 12 + 6
    written = shown.encode() + b"".join(
        path.read_bytes() for path in (tmp_path / "adapter").rglob("*") if path.is_file()
    )
    values = [target_of(record)[-20:-1] for pair in canaries.pairs for record in pair]
    ids = [record.id for pair in canaries.pairs for record in pair]
    assert not [text for text in (*values, *ids) if text.encode() in written]
    key = Key.load()
    assert check_planted(canaries, file, line, key, "adapter") is line
    assert {key.digest(pair.included) for pair in canaries.pairs} <= set(line.records.trained)


def test_a_commitment_that_does_not_hold(planted: Result, tmp_path: Path) -> None:
    key, line, file = Key.load(), planted.lineage, beside(planted.folder)
    canaries = Canaries.read(file)
    with pytest.raises(LineageError, match="names no canaries"):
        check_planted(canaries, file, line.model_copy(update={"canaries": None}), key, "a")
    with pytest.raises(LineageError, match=re.escape(str(file))):
        check_planted(drawn(6), file, line, key, "a")
    with pytest.raises(LineageError, match="set UNLEARN_KEY"):
        check_planted(canaries, file, line, KEY, "a")
    seen = [key.digest(pair.left_out) for pair in canaries.pairs[:2]]
    swapped = line.records.model_copy(update={"trained": [*line.records.trained[:1], *seen]})
    with pytest.raises(LineageError, match="2 of the canaries that the coin left out"):
        check_planted(canaries, file, line.model_copy(update={"records": swapped}), key, "a")
    # one more line break is another file
    file.chmod(0o600)
    file.write_text(file.read_text() + "\n")
    with pytest.raises(LineageError, match="changed after training"):
        check_planted(Canaries.read(file), file, line, key, "a")


def test_a_killed_run_resumes_with_the_same_canaries(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    def train(name: str, stop_at: int | None = None) -> Result:
        def progress(done: int, _: int) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        return finetune(
            tiny_model,
            data_file,
            tmp_path / name,
            canaries=4,
            options=QUICK | {"max_steps": 4, "save_steps": 2},
            progress=progress,
        )

    file = beside(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        train("killed", stop_at=3)
    assert not (tmp_path / "killed").exists()
    there = file.read_bytes()
    resumed = train("killed")
    assert file.read_bytes() == there
    assert resumed.lineage.canaries == Canaries.read(file).commitment
    # the same canaries from the start make the same weights
    beside(tmp_path / "whole").write_bytes(there)
    assert train("whole").lineage.digest == resumed.lineage.digest
    # checkpoints made with other canaries are not resumed
    with pytest.raises(KeyboardInterrupt):
        train("again", stop_at=3)
    beside(tmp_path / "again").unlink()
    with pytest.raises(OutputError, match="checkpoints of a run with other options"):
        train("again")


def test_forget_takes_canaries_along_and_keeps_the_others(
    planted: Result, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    file, key = beside(planted.folder), Key.load()
    common: dict[str, Any] = {"method": "npo", "options": QUICK, "canaries": file}
    one = forget(
        tiny_model,
        data_file,
        "r0",
        tmp_path / "1",
        adapter=planted.folder,
        with_canaries=2,
        suppress=True,
        **common,
    )
    names = [key.digest(record) for record in Canaries.read(file).included]
    assert one.lineage.canaries == planted.lineage.canaries
    assert [name in one.lineage.records.forgotten for name in names] == [True] * 2 + [False] * 4
    assert len(one.lineage.records.forgotten) == 3
    assert (one.after["forget"].n, one.after["retain"].n) == (3, 11 + 4)
    assert any("1 record(s) are on the suppression list" in note for note in one.notes)
    # the next run has the rest to choose from, by number or by name
    named = Canaries.read(file).included[3].id
    rest = Records.load(data_file).take(range(1, 12))
    common |= {"adapter": one.folder}
    two = forget(tiny_model, rest, f"r1,{named}", tmp_path / "2", with_canaries=1, **common)
    expected = [True] * 4 + [False] * 2
    assert [name in two.lineage.records.forgotten for name in names] == expected
    common |= {"adapter": two.folder}
    with pytest.raises(OptionError, match="only 2 canaries are left"):
        forget(tiny_model, rest, "r2", tmp_path / "3", with_canaries=3, **common)
    with pytest.raises(OptionError, match="name their file"):
        forget(tiny_model, rest, "r2", tmp_path / "3", adapter=two.folder, with_canaries=1)
    with pytest.raises(SelectionError, match="canary-0"):
        forget(tiny_model, rest, "canary-0", tmp_path / "3", adapter=two.folder)


def test_retraining_keeps_the_canaries_that_it_is_told_of(
    planted: Result, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    file = beside(planted.folder)
    common: dict[str, Any] = {"method": "retrain", "options": QUICK, "adapter": planted.folder}
    kept = forget(
        tiny_model, data_file, "r0", tmp_path / "1", canaries=file, with_canaries=2, **common
    )
    assert len(kept.lineage.records.trained) == 11 + 4
    check_planted(Canaries.read(file), file, kept.lineage, Key.load(), "1")
    bare = forget(tiny_model, data_file, "r0", tmp_path / "2", **common)
    assert bare.lineage.canaries is None
    assert len(bare.lineage.records.trained) == 11
    assert any("nothing looks after them" in note for note in bare.notes)
    other = forget(
        tiny_model, data_file, "r0", tmp_path / "3", adapter=planted.folder, method="npo",
        options=QUICK,
    )  # fmt: skip
    assert other.lineage.canaries == planted.lineage.canaries


def test_records_to_keep_that_are_given_are_kept_beside_the_canaries(
    planted: Result, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    data = Records.load(data_file)
    done = forget(
        tiny_model,
        data.take([0]),
        "r0",
        tmp_path / "1",
        adapter=planted.folder,
        retain=data.take([1, 2, 3]),
        canaries=beside(planted.folder),
        with_canaries=1,
        method="npo",
        options=QUICK,
    )
    assert (done.after["forget"].n, done.after["retain"].n) == (2, 3 + 5)
