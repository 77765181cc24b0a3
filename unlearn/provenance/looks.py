"""The log of looks: which models were measured for a deletion request, noted before they are.

Of five models at the margin that are measured, one passes by chance more often than one of one; and
a model can be made to look better by leaving references out. Both are harmless where they are
known. So every audit notes its look here before it computes a score.

The log is `looks.jsonl` in the toolkit's home (`UNLEARN_HOME`, by default `~/.unlearn`), one line a
look, never rewritten; lines of another kind name models that had to be deleted. A line names
records, requests and settings by digests under the user's key, and models by the digests of their
weights: no text and no id of a record. Lines of one key form a chain: each holds the MAC of the one
before, and its own MAC is

    HMAC-SHA256(key, "unlearn look" ‖ canonical content)

`looks.head` holds, under a MAC too, how many lines there were at the last look and the MAC of the
last of them. So without the key no line can be edited, removed, inserted, moved or cut off
unnoticed: the log is `broken` then. What cannot be noticed is that both files were removed or put
back together, and looks under another key or in another home.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from unlearn.errors import OutputError
from unlearn.files import staged_file
from unlearn.provenance.keys import Key, home
from unlearn.provenance.lineage import now
from unlearn.strict_json import NotJsonError, parse_json, read_json_file

__all__ = [
    "History",
    "Log",
    "Look",
    "LookLog",
    "Looks",
    "Scope",
    "counted",
    "policy_came_later",
    "request_digest",
]

Scope = Literal["request", "comparison"]
"""What a model is measured for: a deletion request, or a comparison of methods."""
Log = Literal["holds", "broken", "none"]
"""Whether the chain of the log holds; `none` where nothing could be noted."""

_START = ""
_PATIENCE = 30.0
"""Seconds after which an audit goes on without the log, if another process keeps hold of it."""


class Look(NamedTuple):
    """A model that is measured for a request, beside references.

    Attributes:
        request: of `request_digest`.
        model: digest of the audited model's weights.
        form: digest of all else that decides what it computes: configurations, adapters below it,
            its base.
        references: digests of the references' weights, sorted.
        policy: SHA-256 of the policy that was fixed, or empty.
        scope: what the model is measured for.
        eligible: those of the references that by their lineages never saw the records and were
            trained as the audited model was.
        partial: those of the eligible ones that saw fewer of the kept records than it did.
        origins: digests of how the audited model, and the one before, were first trained. What is
            a reference for a model of the same origin is one for this.
    """

    request: str
    model: str
    form: str
    references: tuple[str, ...]
    policy: str
    scope: Scope = "request"
    eligible: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    @property
    def name(self) -> tuple[Any, ...]:
        """What tells looks apart: the same audit made again is the same look."""
        return (*self[:5], self.scope)


class History(NamedTuple):
    """A look among all at the same request.

    Attributes:
        looks: in the order in which they were noted.
        at: the place of this one among them.
        log: whether the log holds. Of one that is broken these are the lines whose own MACs hold.
        purged: digests of models that were deleted because they held records.
    """

    looks: tuple[Look, ...]
    at: int
    log: Log
    purged: frozenset[str] = frozenset()


class Looks(NamedTuple):
    """How often a request was looked at, as an audit holds it.

    Attributes:
        scope: what the model is measured for; what follows is counted within it.
        models: different models that were audited for the request so far, this one included.
        nth: the place of this one among them.
        models_elsewhere: further models that were audited on the same records in the other scope.
        reference_sets: different sets of references so far.
        unused_references: digests of references of earlier looks that are missing from this one.
        purged_references: how many others are missing because they were deleted since, as they held
            records of another request.
        log: whether the log holds; where it does not, tries are not known.
    """

    scope: Scope
    models: int
    nth: int
    models_elsewhere: int
    reference_sets: int
    unused_references: tuple[str, ...]
    purged_references: int
    log: Log


def request_digest(key: Key, records: Sequence[str]) -> str:
    """Return the digest under which a set of records to forget is looked at.

    Args:
        key: under which records are named.
        records: their keyed digests, in any order.

    Returns:
        64 hexadecimal digits.
    """
    return key.mac(b"unlearn request\0" + "\n".join(sorted(records)).encode())


def counted(history: History) -> Looks:
    """Count the tries of the request that a look belongs to.

    Args:
        history: the look among others.

    Returns:
        Their numbers. References are missing that were eligible in an earlier look of the same
        scope at the same model, or at one of the same origin, and were not purged since. Partial
        ones may give way to full ones only, as the two are not mixed.
    """
    look = history.looks[history.at]
    own = [each for each in history.looks if each.scope == look.scope]
    models = list(dict.fromkeys(_model(each) for each in own))
    others = {_model(each) for each in history.looks} - set(models)
    unused = _unused(look, own)
    return Looks(
        scope=look.scope,
        models=len(models),
        nth=1 + models.index(_model(look)),
        models_elsewhere=len(others),
        reference_sets=len({each.references for each in own if each.references}),
        unused_references=tuple(sorted(unused - history.purged)),
        purged_references=len(unused & history.purged),
        log=history.log,
    )


def policy_came_later(history: History) -> bool:
    """Say whether a look's model was looked at before, on the same records, by another policy."""
    look = history.looks[history.at]
    earlier = [each for each in history.looks[: history.at] if each.model == look.model]
    return any(each.policy != look.policy for each in earlier)


def _model(look: Look) -> tuple[str, str]:
    return look.model, look.form


def _unused(look: Look, looks: Sequence[Look]) -> set[str]:
    """Return the registered references of a request that a look leaves out."""
    of_its_kind = [
        each for each in looks if each.model == look.model or set(each.origins) & set(look.origins)
    ]
    registered = {one for each in of_its_kind for one in each.eligible}
    if set(look.eligible) and not look.partial:
        registered -= {one for each in of_its_kind for one in each.partial}
    return registered - set(look.references) - {look.model}


class LookLog:
    """The log of looks under one key.

    Args:
        key: under which lines are authenticated.
        folder: where it lies; by default the toolkit's home.
    """

    def __init__(self, key: Key, folder: Path | None = None) -> None:
        self._key = key
        self.path = (folder or home()) / "looks.jsonl"

    def register(self, look: Look) -> History:
        """Note a look, unless it was noted before, and return it among those at its request.

        A home that cannot be written, or a log that another process holds for long, is no reason
        not to measure: the log is `none` then.

        Args:
            look: what is about to be measured.

        Returns:
            Its history.
        """
        try:
            with self._held() as file:
                lines, holds = self._read(file)
                looks = [_look(line) for line in lines if "request" in line]
                known = look.name in [each.name for each in looks]
                self._append(file, lines, holds, None if known else look._asdict())
        except (OSError, OutputError):
            return History((look,), 0, "none")
        looks += [] if known else [look]
        of_request = tuple(each for each in looks if each.request == look.request)
        at = [each.name for each in of_request].index(look.name)
        purged = frozenset(line["purged"] for line in lines if "purged" in line)
        return History(of_request, at, "holds" if holds else "broken", purged)

    def note_purge(self, weights: str) -> None:
        """Note that a model was deleted because it held records that were to be deleted.

        A half-split that serves several requests holds the records of some of them: as a reference
        for others it is not missed any more. Where there is no log, or it cannot be written,
        nothing is noted.

        Args:
            weights: digest of its weights.
        """
        if not self.path.exists():
            return
        with contextlib.suppress(OSError, OutputError), self._held() as file:
            lines, holds = self._read(file)
            known = any(line.get("purged") == weights for line in lines)
            self._append(file, lines, holds, None if known else {"purged": weights})

    @contextlib.contextmanager
    def _held(self) -> Iterator[BinaryIO]:
        """Open the log, made where there is none, and keep other processes out of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            _lock(descriptor)
            yield file

    def _read(self, file: BinaryIO) -> tuple[list[dict[str, Any]], bool]:
        """Return the lines under the key, and whether the log holds; cut off what has no end.

        That is of a process that was killed while it wrote: nothing followed from it.
        """
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            file.truncate(len(whole))
        lines, holds = self._chain(whole)
        head = self._heads().get(self._key.id)
        if head is None and not lines:
            self._write_head(lines)
            return lines, holds
        return lines, holds and self._as_the_head_says(head, lines)

    def _append(
        self,
        file: BinaryIO,
        lines: list[dict[str, Any]],
        holds: bool,
        content: Mapping[str, Any] | None,
    ) -> None:
        """Add a line, if there is one to add; the head of a broken log stays, and so it is told."""
        if content is not None:
            before = lines[-1]["mac"] if lines else _START
            line = {"key_id": self._key.id, "time": now(), "before": before, **content}
            lines.append({**line, "mac": self._mac(line)})
            file.write(_canonical(lines[-1]) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if holds:
            self._write_head(lines)

    def _chain(self, content: bytes) -> tuple[list[dict[str, Any]], bool]:
        """Return the lines that were written under the key, and whether they are all, in order."""
        lines: list[dict[str, Any]] = []
        holds, last = True, _START
        for text in content.splitlines():
            try:
                line = parse_json(text)
                if line["key_id"] != self._key.id:
                    continue
                genuine = hmac.compare_digest(line["mac"], self._mac(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                genuine = False
            if not genuine:
                holds = False
                continue
            holds = holds and line["before"] == last
            last = line["mac"]
            lines.append(line)
        return lines, holds

    def _mac(self, line: Mapping[str, Any]) -> str:
        content = {name: value for name, value in line.items() if name != "mac"}
        return self._key.mac(b"unlearn look\0" + _canonical(content))

    @property
    def _head_file(self) -> Path:
        return self.path.with_suffix(".head")

    def _heads(self) -> dict[str, Any]:
        """Return where the chain of each key ended at its last look."""
        try:
            content = read_json_file(self._head_file)
        except (OSError, NotJsonError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write_head(self, lines: Sequence[Mapping[str, Any]]) -> None:
        heads = self._heads()
        last = lines[-1]["mac"] if lines else _START
        head = {"entries": len(lines), "last": last, "mac": self._head_mac(len(lines), last)}
        if heads.get(self._key.id) == head:
            return
        with staged_file(self._head_file) as stage:
            stage.touch(mode=0o600)
            stage.write_bytes(_canonical({**heads, self._key.id: head}) + b"\n")

    def _head_mac(self, entries: int, last: str) -> str:
        return self._key.mac(f"unlearn looks head\0{entries}\0{last}".encode())

    def _as_the_head_says(self, head: Any, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Say whether the lines that there were at the last look are there, and end as they did.

        A line more is of a process that was killed before it wrote the head.
        """
        try:
            entries, last = head["entries"], str(head["last"])
            genuine = hmac.compare_digest(head["mac"], self._head_mac(entries, last))
            ends = [_START, *(line["mac"] for line in lines)]
            return genuine and entries < len(ends) and ends[entries] == last
        except (KeyError, TypeError):
            return False


def _look(line: Mapping[str, Any]) -> Look:
    """Return a look from a line whose MAC holds."""
    named = {name: line[name] for name in Look._fields if name in line}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in named.items()}
    return Look(**values)


def _canonical(content: Mapping[str, Any]) -> bytes:
    """Return the one way to write a JSON object: keys sorted, no spaces, ASCII only."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _lock(descriptor: int) -> None:
    """Wait until no other process holds the file; OSError if that takes too long."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: nothing to hold it with
        return
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
