"""A verdict on an audit and a replay, each in a folder of its own, has one folder to check."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn.apps.cli import run

from .conftest import FORGOTTEN


@pytest.mark.usefixtures("in_this_process")
def test_what_was_decided_on_both_is_checked_in_one_folder(
    retrained: Path,
    tiny_model: Path,
    data_file: Path,
    holdout_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    proof, audit = tmp_path / "proof", tmp_path / "audit"
    assert run(["replay", str(retrained), "-d", str(data_file), "--output", str(proof)]) == 0
    words = ["audit", "-m", str(tiny_model), "--adapter", str(retrained), "-d", str(data_file)]
    words += ["--forget", FORGOTTEN, "--holdout", str(holdout_file), "--generate", "0"]
    assert run([*words, "--output", str(audit)]) == 0
    both = ["--audit", str(audit), "--replay", str(proof), "--adapter", str(retrained)]
    assert run(["verify", *both]) in (0, 4)
    assert (audit / "replay.json").read_bytes() == (proof / "replay.json").read_bytes()
    public = tmp_path / "unlearn-home" / "signing.pub"
    checked = ["certificate", "check", str(audit / "certificate.json"), "--key", str(public)]
    assert run([*checked, "--audit", str(audit), "--adapter", str(retrained)]) == 0
    (audit / "replay.json").unlink()
    assert run([*checked, "--audit", str(audit), "--adapter", str(retrained)]) == 1
    capfd.readouterr()
