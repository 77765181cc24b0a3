"""Keep what models said about records on disk, so that no state is run twice on the same records.

Entries lie in `cache/scores` of the toolkit's home (`UNLEARN_HOME`, by default `~/.unlearn`), and
may be deleted at any time. They hold arrays of numbers only: no text of a record, no tokens, no
record id and no name. A file is named by a MAC, under the user's key, of everything that its
content depends on: weights and configurations of the whole stack, the records as tokens, settings,
versions. So it is never stale, and nobody without the key can learn from a name which record it is
about. A second MAC covers the content: a file that was damaged or forged counts as absent. A file
gets its name when it is whole: what a killed process leaves behind is never read.

Of several processes only the first has a cache: what it has there the others are told.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn.data.tokenization import Example
from unlearn.errors import DataError, OutputError
from unlearn.files import staged_file
from unlearn.model.opening import Opening
from unlearn.model.state import ModelState
from unlearn.provenance.digests import folder_digest
from unlearn.provenance.environment import quantised
from unlearn.provenance.keys import Key, home
from unlearn.provenance.lineage import library_versions
from unlearn_eval.scores.entries import is_entry
from unlearn_eval.scores.processes import first, from_first
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["Cache", "examples_digest", "folder_digest", "pack", "setting", "unpack"]

Arrays = Mapping[str, npt.NDArray[Any]]

_SCHEMA = 2
"""Goes into every name: raise it when the same facts would lead to other numbers."""
_LIMIT = 2 << 30
"""Bytes kept; the entries that were not used for longest go first."""
_ABANDONED = 24 * 3600
"""Seconds after which a file that is still not whole has no writer any more."""
_TAG = 64
_TOKEN_ARRAYS = ("offsets", "log_prob", "hit", "rank", "mean", "std", "entropy")


class Cache:
    """Arrays by the facts that they depend on.

    Args:
        folder: where entries are kept; None keeps nothing.
        key: under which names and contents are authenticated.
    """

    def __init__(self, folder: Path | None = None, key: Key | None = None) -> None:
        self._folder = folder if key else None
        self._key = key

    @classmethod
    def open(cls, wanted: bool = True) -> Cache:
        """Open the user's cache; one that keeps nothing where it is not wanted or cannot be."""
        if not (wanted and first()):
            return cls()
        try:
            key = Key.load()
            folder = home() / "cache" / "scores"
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:  # a home that cannot be written is no reason not to measure
            return cls()
        return cls(folder, key)

    def read(self, *facts: Any) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays kept for these facts, or None if there are none that can be trusted.

        Args:
            *facts: what they depend on, as JSON has it.

        Returns:
            The arrays by name.
        """
        return from_first(lambda: self._read(facts))

    def _read(self, facts: Sequence[Any]) -> dict[str, npt.NDArray[Any]] | None:
        path = self._path(facts)
        try:
            if path is None or not path.is_file():
                return None
            content = path.read_bytes()
            tag, payload = content[:_TAG], content[_TAG:]
            if not hmac.compare_digest(tag, self._tag(path, payload)):
                return None
            with contextlib.suppress(OSError):  # a cache may be read where it cannot be written
                path.touch()
            with np.load(io.BytesIO(payload), allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None

    def write(self, arrays: Arrays, *facts: Any) -> None:
        """Keep arrays for these facts, atomically; a full disk is no error."""
        path = self._path(facts)
        if path is None:
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        payload = buffer.getvalue()
        with contextlib.suppress(OSError, OutputError), staged_file(path) as stage:
            stage.touch(mode=0o600)
            stage.write_bytes(self._tag(path, payload) + payload)

    def get(self, compute: Callable[[], Arrays], *facts: Any) -> Arrays:
        """Return what is kept for these facts, or compute and keep it."""
        arrays: Arrays | None = self.read(*facts)
        if arrays is None:
            arrays = compute()
            self.write(arrays, *facts)
        return arrays

    def trim(self, limit: int = _LIMIT) -> None:
        """Delete the entries that were not used for longest, down to a size, and what kills left.

        Args:
            limit: bytes that may stay.
        """
        if self._folder is None:
            return
        with contextlib.suppress(OSError):  # another process may be doing the same
            ours = [path for path in self._folder.iterdir() if is_entry(path.name)]
            for path in ours:
                if path.suffix != ".npz" and time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)
            entries = [(path, path.stat()) for path in ours if path.suffix == ".npz"]
            for path, facts in sorted(entries, key=lambda e: e[1].st_mtime, reverse=True):
                limit -= facts.st_size
                if limit < 0:
                    path.unlink(missing_ok=True)

    def _path(self, facts: Sequence[Any]) -> Path | None:
        if self._folder is None or self._key is None:
            return None
        text = json.dumps([_SCHEMA, *facts], sort_keys=True, default=str)
        return self._folder / f"{self._key.mac(b'cache name' + text.encode())}.npz"

    def _tag(self, path: Path, payload: bytes) -> bytes:
        assert self._key is not None
        return self._key.mac(b"cache content" + path.name.encode() + payload).encode()


def examples_digest(examples: Sequence[Example]) -> str:
    """Return a digest of everything that scores of some examples depend on, but for the ids.

    It is a plain hash, which could be guessed for a short record: use it only as a fact of `Cache`.

    Args:
        examples: the encoded records.

    Returns:
        SHA-256 in hexadecimal.
    """
    total = hashlib.sha256()
    for example in examples:
        facts = [len(example.ids), example.target_text, [(s.start, s.end) for s in example.secrets]]
        total.update(json.dumps(facts).encode())
        total.update(example.ids.tobytes())
        total.update(example.target.tobytes())
    return total.hexdigest()


def setting(state: ModelState, opening: Opening) -> str:
    """Return in what form models are run, as far as it shows in their numbers."""
    kind = str(next(state.model.parameters()).dtype)
    versions = {k: v for k, v in library_versions().items() if k != "datasets"}
    form = quantised(state.model) or opening.load_in_4bit
    return json.dumps([kind, state.device.type, form, sorted(versions.items())])


def pack(scores: TokenScores) -> dict[str, npt.NDArray[Any]]:
    """Return scores as arrays, without the ids of their records."""
    arrays = {name: np.asarray(getattr(scores, name)) for name in _TOKEN_ARRAYS}
    for name in ("text_bytes", "secret", "top"):
        if (values := getattr(scores, name)) is not None:
            arrays[name] = values
    return arrays | {f"sampled {t!r} {k}": v for (t, k), v in scores.sampled.items()}


def unpack(arrays: Arrays | None, examples: Sequence[Example]) -> TokenScores | None:
    """Return scores from arrays that `pack` made, or None if they are not of these examples.

    Args:
        arrays: from a cache; None if there are none.
        examples: the records that they are of, in order.

    Returns:
        The scores.
    """
    if arrays is None:
        return None
    plain = {name: values for name, values in arrays.items() if not name.startswith("sampled ")}
    sampled = {}
    for name in sorted(set(arrays) - set(plain)):
        _, temperature, k = name.split()
        sampled[float(temperature), int(k)] = arrays[name]
    try:
        scores = TokenScores(ids=tuple(e.id for e in examples), sampled=sampled, **plain)
    except (DataError, TypeError):
        return None
    same = scores.lengths.tolist() == [e.targets for e in examples]
    return scores if same else None
