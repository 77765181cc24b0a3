"""What a replay found, in the form that `replay.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from unlearn.errors import DataError
from unlearn_eval.results.shapes import REPLAY_FILE, checked_file

__all__ = ["FILE", "Finding", "Kind", "Outcome", "Replay", "read_replay"]

FILE = "replay.json"

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]

Kind = Literal["exact", "up to rounding"]


@dataclass(frozen=True)
class Finding:
    """The answer to one question of a replay.

    Attributes:
        what: what was looked at.
        passed: whether it is as it must be for a PASS; None if it could not be looked at.
        words: what was found: numbers and ids, no content of a record.
        damning: whether it shows that records to forget were trained on.
    """

    what: str
    passed: bool | None
    words: str
    damning: bool = False


@dataclass(frozen=True)
class Replay:
    """What training again showed.

    Attributes:
        created: ISO time.
        outcome: PASS, FAIL or INCONCLUSIVE.
        kind: how closely the weights came out; None without a PASS.
        findings: one a question.
        not_looked_at: what this leaves open, in sentences.
        adapter: digest of its `weights`, of its `files` that decide what it computes, and of its
            `lineage`; its `method` and `seed`.
        base: `name` and `weights`.
        records: `key_id`; how many records were `trained` on; keyed digests of the `forgotten`.
        environment: where it was trained (`there`), where it was trained again (`here`), and in
            what these `differ`.
        distance: of the weights and log-probabilities from those of the replay, beside those of two
            seeds; None where the weights are equal, or nothing excuses a difference.
        cost: seconds of the training `there` and of that `here`, and of the `whole` replay.
    """

    created: str
    outcome: Outcome
    kind: Kind | None
    findings: Sequence[Finding]
    not_looked_at: Sequence[str]
    adapter: Mapping[str, Any]
    base: Mapping[str, Any]
    records: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)
    distance: Mapping[str, Any] | None = None
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The result in a sentence."""
        if self.outcome == "PASS":
            forgotten = len(self.records["forgotten"])
            how = {
                "exact": "exact: replayed; training again gave the same weights, bit by bit",
                "up to rounding": "reproduced up to rounding; training again gave weights that "
                "differ by less than a hundredth of what two seeds do",
                None: "",
            }[self.kind]
            return f"{how}, and none of the {forgotten} forgotten record(s) was trained on"
        wanted = [f for f in self.findings if (f.damning if self.outcome == "FAIL" else True)]
        return "; ".join(f.words for f in wanted if f.passed is not True)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `replay.json`, schema 1."""
        return {"schema": 1, **asdict(self), "words": self.words}


def read_replay(path: str | Path) -> dict[str, Any]:
    """Read `replay.json`, or that of a folder.

    Args:
        path: the file, or the folder that it lies in.

    Returns:
        Its content.

    Raises:
        DataError: if it is missing or is something else.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        return checked_file(file, REPLAY_FILE, "replay", "run `unlearn replay`")
    except FileNotFoundError as error:
        raise DataError(f"{file} cannot be read: {error}; run `unlearn replay` first") from error
