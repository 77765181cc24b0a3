"""What others wrote cannot steer the terminal of whoever looks at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.cli.screen import console, show_note, table
from unlearn.printable import printable

RED, TURNED = "\x1b[31m", "\u202e"
ODD = f"x{RED}y{TURNED}z"


def safe(text: str) -> bool:
    return not {"\x1b", "\u202e", "\x07", "\x9b", "\r"} & set(text)


def test_what_is_printable_shows_only_itself() -> None:
    assert printable("Zoë’s 東京\tपत्रिका\u200d\n\u00a0x") == "Zoë’s 東京\tपत्रिका\u200d\n\u00a0x"
    for bad in "\x00\x07\r\x1b\x7f\x9b\u202e\u2066\u200b\ufeff\u2028\ud800":
        assert printable(f"a{bad}b") == "a\ufffdb"


def test_nothing_that_is_printed_steers_the_terminal(capfd: Any) -> None:
    console.print(f"said {ODD}")
    show_note(ODD)
    table(f"title {ODD}", [f"head {ODD}", "n"], [[ODD, ODD]])
    out, _ = capfd.readouterr()
    assert safe(out)
    assert out.count("\ufffd") == 12


@pytest.mark.parametrize(
    "words",
    [
        ["request", "show", ODD],
        ["request", "list", "--state", ODD],
        ["request", "close", "1", "--outcome", ODD],
        ["methods", ODD],
        ["recipes", "show", ODD],
        ["verify", ODD],
        ["replay", ODD],
        ["key", "show", ODD],
        ["certificate", "check", ODD, "--key", ODD],
        ["forget", "--model", ODD, "--data", ODD, "--forget", ODD, "--output", "o"],
        ["forget", "-o", ODD],
        [ODD],
        ["request", f"--{ODD}"],
    ],
    ids=lambda words: " ".join(words[:2]).split("\x1b")[0],
)
def test_no_error_steers_the_terminal(words: list[str], tmp_path: Path, capfd: Any) -> None:
    more = ["--ledger", str(tmp_path / "l.db")] if words[0] == "request" else []
    assert run([*words, *more]) == 2
    out, err = capfd.readouterr()
    assert safe(out + err)
    assert err.count("\n") == 1


def test_no_name_of_a_request_steers_the_terminal(
    tmp_path: Path,
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    lineage_key: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    folder = tmp_path / ODD
    folder.mkdir()
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    rows[0] |= {"id": f"r0{ODD}"}
    rows[1] |= {"id": f"r1{ODD}", "prompt": rows[0]["prompt"], "completion": rows[0]["completion"]}
    rows[1]["completion"] += " Yes"
    data = folder / f"{ODD}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = ["--ledger", str(folder / "ledger.db")]
    words = ["--model", str(tiny_model), "--adapter", str(adapter), "--data", str(data)]
    words += ["--forget", f"r0{ODD}", "--label", f"T-1{ODD}"]
    assert run(["request", "add", *words, *ledger]) == 0
    for verb in (
        ["locate", "1", "--yes", "--show-text"],
        ["list"],
        ["show", "1"],
        ["sweep", "1", str(folder)],
        ["show", "1"],
        ["check"],
        ["locate", "1", "--yes", "--include", ODD],
        ["close", "1", "--yes"],
    ):
        assert run(["request", *verb, *ledger]) in {0, 1, 2}
    out, err = capfd.readouterr()
    assert safe(out + err)
    assert "r0x\ufffd[31my\ufffdz" in out
    assert "T-1x\ufffd" in out
