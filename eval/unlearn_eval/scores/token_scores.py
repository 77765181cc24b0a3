"""The score matrix: what one model state says about every target token of one split.

Everything that measures is a function of these arrays and never sees a model, so a state is run
once however many attacks and probes read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from unlearn.errors import DataError
from unlearn.files import staged_file
from unlearn_eval.arrays import BoolArray, FloatArray, IntArray

__all__ = ["SAMPLER", "SAMPLERS", "Sampler", "TokenScores"]

Sampler = tuple[float, int]
"""How a model is sampled: (temperature, top_k), top_k 0 meaning all tokens."""

# Rounding lifts log(1) a little above 0; a loss in place of a log-probability lies far above.
_ROUNDING = 1e-3

_TOKEN_TYPES: dict[str, type[np.generic]] = {
    "log_prob": np.float64,
    "hit": np.bool_,
    "rank": np.int64,
    "mean": np.float64,
    "std": np.float64,
    "entropy": np.float64,
}
_OPTIONAL_TOKEN_TYPES: dict[str, type[np.generic]] = {"secret": np.int64, "top": np.float64}


@dataclass(frozen=True, eq=False, slots=True)
class TokenScores:
    """Token statistics of R records with N target tokens in all, laid end to end.

    Record i owns the tokens `offsets[i]:offsets[i + 1]`. The arrays are converted to the types
    below and made read-only.

    Attributes:
        ids: record ids, R of them.
        offsets: int64[R + 1], from 0 to N, strictly increasing: every record has a token.
        log_prob: float64[N], log p(x_t | x_<t) in nats; −inf is allowed.
        hit: bool[N], whether the arg-max is the target token.
        rank: int64[N], how many tokens are likelier than the target.
        mean: float64[N], mean of log p under the model's own distribution.
        std: float64[N], standard deviation of log p under the same.
        entropy: float64[N], in nats.
        text_bytes: int64[R], length of each zlib-compressed target text; None if not computed.
        secret: int64[N], which sensitive value of its record a token belongs to: 1 for the first,
            2 for the second …, 0 for none; None where nothing is known of sensitive values.
        top: float64[N], log-probability of the model's first choice; None where not computed.
        sampled: by (temperature, top_k), float64[N]: log-probability of the token when sampled so;
            −inf where it is not among the top k.
    """

    ids: tuple[str, ...]
    offsets: IntArray
    log_prob: FloatArray
    hit: BoolArray
    rank: IntArray
    mean: FloatArray
    std: FloatArray
    entropy: FloatArray
    text_bytes: IntArray | None = None
    secret: IntArray | None = None
    top: FloatArray | None = None
    sampled: Mapping[Sampler, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "offsets", _frozen(self.offsets, np.int64))
        for name, kind in _TOKEN_TYPES.items():
            object.__setattr__(self, name, _frozen(getattr(self, name), kind))
        if self.text_bytes is not None:
            object.__setattr__(self, "text_bytes", _frozen(self.text_bytes, np.int64))
        for name, kind in _OPTIONAL_TOKEN_TYPES.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _frozen(getattr(self, name), kind))
        frozen = {key: _frozen(value, np.float64) for key, value in self.sampled.items()}
        object.__setattr__(self, "sampled", MappingProxyType(frozen))
        self._check_lengths()
        self._check_values()

    def __reduce__(self) -> tuple[Callable[[], TokenScores], tuple[()]]:
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        # the view of a dictionary cannot be sent to another process
        return partial(TokenScores, **(values | {"sampled": dict(self.sampled)})), ()

    def _check_lengths(self) -> None:
        """Refuse arrays that do not fit together."""
        if self.offsets.shape != (self.records + 1,):
            raise DataError(
                f"{self.records} record ids need {self.records + 1} offsets, "
                f"not an array of shape {self.offsets.shape}"
            )
        empty = np.flatnonzero(np.diff(self.offsets) < 1)
        if empty.size:
            raise DataError(f"record {self.ids[empty[0]]!r} has no target token to score; drop it")
        for name, values in self._columns():
            shape = values.shape
            if self.offsets[0] != 0 or shape != (self.offsets[-1],):
                raise DataError(
                    f"offsets run from {self.offsets[0]} to {self.offsets[-1]}, which does not fit "
                    f"{name!r} of shape {shape}: one value a token is expected"
                )
        if self.text_bytes is not None and self.text_bytes.shape != (self.records,):
            raise DataError(
                f"'text_bytes' has shape {self.text_bytes.shape}; "
                f"one value for each of {self.records} records is expected"
            )

    def _columns(self) -> Iterator[tuple[str, Any]]:
        """Yield (column name, array) of everything that has one value a token."""
        for name in _TOKEN_TYPES:
            yield name, getattr(self, name)
        for name in _OPTIONAL_TOKEN_TYPES:
            if getattr(self, name) is not None:
                yield name, getattr(self, name)
        for key, values in self.sampled.items():
            yield _column_name(key), values

    def _check_values(self) -> None:
        """Refuse NaN and what cannot be: only a log-probability may be −inf."""
        for name, values in (
            ("log_prob", self.log_prob),
            *([] if self.top is None else [("top", self.top)]),
            *((_column_name(key), values) for key, values in self.sampled.items()),
        ):
            self._refuse(np.isnan(values), f"{name!r} is NaN")
            self._refuse(values > _ROUNDING, f"{name!r} is above 0 (a loss has the other sign)")
        for name in ("mean", "std", "entropy"):
            self._refuse(~np.isfinite(getattr(self, name)), f"{name!r} is NaN or infinite")

    def _refuse(self, wrong: BoolArray, what: str) -> None:
        """Raise an error that names the record and token of the first wrong value."""
        if wrong.any():
            token = int(np.argmax(wrong))
            record = int(np.searchsorted(self.offsets, token, side="right")) - 1
            raise DataError(
                f"record {self.ids[record]!r}, target token {token - int(self.offsets[record])}: "
                f"{what}; score this state again, and look for overflow in its weights"
            )

    @property
    def records(self) -> int:
        """How many records there are, R."""
        return len(self.ids)

    @property
    def lengths(self) -> IntArray:
        """Target tokens of each record, int64[R]."""
        return np.diff(self.offsets)

    def tokens(self, record: int) -> slice:
        """Return where the tokens of one record lie in the per-token arrays.

        Args:
            record: position from 0; negative positions count from the end.

        Returns:
            A slice of the flat arrays.
        """
        record = range(self.records)[record]
        return slice(int(self.offsets[record]), int(self.offsets[record + 1]))

    def per_record(
        self, values: FloatArray | IntArray | BoolArray, how: Literal["sum", "mean"] = "mean"
    ) -> FloatArray:
        """Reduce one value a token to one value a record.

        Args:
            values: [N], laid out like `log_prob`.
            how: "sum", or "mean" over the record's own tokens.

        Returns:
            float64[R].

        Raises:
            DataError: if `values` is not one value a token.
        """
        if values.shape != self.log_prob.shape:
            raise DataError(f"values of shape {values.shape} for {self.log_prob.size} tokens")
        if not self.records:
            return np.empty(0, dtype=np.float64)
        sums: FloatArray = np.add.reduceat(values.astype(np.float64), self.offsets[:-1])
        return sums if how == "sum" else sums / self.lengths

    def take(self, positions: Sequence[int] | IntArray | BoolArray) -> TokenScores:
        """Return the records at these positions, in this order.

        Args:
            positions: from 0, repeats allowed; or a boolean mask over the records.

        Returns:
            New scores that share nothing with these.

        Raises:
            IndexError: if a position is out of range or a mask has the wrong length.
        """
        chosen = np.arange(self.records)[_index(positions)]
        lengths = self.lengths[chosen]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        moved = np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        source = moved + np.arange(offsets[-1])
        return self._replaced(
            lambda values: values[source],
            ids=tuple(self.ids[i] for i in chosen),
            offsets=offsets,
            text_bytes=None if self.text_bytes is None else self.text_bytes[chosen],
        )

    @classmethod
    def joined(cls, parts: Sequence[TokenScores]) -> TokenScores:
        """Return the records of several matrices, one after the other.

        Args:
            parts: at least one; columns that any with records lacks are left out.

        Returns:
            New scores.
        """
        full = [part for part in parts if part.records] or parts[:1]

        def column(name: str) -> Any:
            values = [getattr(part, name) for part in full]
            return None if any(v is None for v in values) else np.concatenate(values)

        names = (*_TOKEN_TYPES, *_OPTIONAL_TOKEN_TYPES, "text_bytes")
        samplers = [key for key in full[0].sampled if all(key in part.sampled for part in full)]
        lengths = np.concatenate([part.lengths for part in full])
        return cls(
            ids=tuple(name for part in full for name in part.ids),
            offsets=np.concatenate(([0], np.cumsum(lengths))),
            sampled={key: np.concatenate([p.sampled[key] for p in full]) for key in samplers},
            **{name: column(name) for name in names},
        )

    def spans(self, record: int) -> list[slice]:
        """Return where the sensitive values of one record lie in the per-token arrays.

        Args:
            record: position from 0; negative positions count from the end.

        Returns:
            One slice a value, in order; none where nothing is known of them.
        """
        if self.secret is None:
            return []
        part = self.tokens(record)
        inside = self.secret[part]
        slices = []
        for which in np.unique(inside[inside > 0]):
            where = np.flatnonzero(inside == which)
            slices.append(slice(part.start + int(where[0]), part.start + int(where[-1]) + 1))
        return slices

    def _replaced(self, change: Callable[[Any], Any], **others: Any) -> TokenScores:
        """Return new scores with every per-token array changed in the same way."""
        return TokenScores(
            **{name: change(getattr(self, name)) for name in _TOKEN_TYPES},
            **{
                name: change(getattr(self, name))
                for name in _OPTIONAL_TOKEN_TYPES
                if getattr(self, name) is not None
            },
            sampled={key: change(values) for key, values in self.sampled.items()},
            **others,
        )

    def save(self, path: str | Path) -> None:
        """Write one Parquet file, a row a record with the token values as lists, atomically.

        Args:
            path: the file; an older one is replaced only when the new one is complete.

        Raises:
            OutputError: if the disk does not take the file.
        """
        import pyarrow.parquet as pq

        with staged_file(path) as stage:
            pq.write_table(self.to_table(), stage)

    def to_table(self) -> Any:
        """Return a `pyarrow.Table` with a row a record and the token values as lists."""
        import pyarrow as pa

        columns: dict[str, Any] = {"id": pa.array(self.ids, type=pa.string())}
        for name, values in self._columns():
            columns[name] = pa.LargeListArray.from_arrays(pa.array(self.offsets), pa.array(values))
        if self.text_bytes is not None:
            columns["text_bytes"] = pa.array(self.text_bytes)
        return pa.table(columns)

    @classmethod
    def load(cls, path: str | Path) -> TokenScores:
        """Read what `save` wrote, bit for bit.

        Raises DataError if the file is missing, is no Parquet file, or holds something else.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: cannot read scores: {reason}; run the audit again") from error
        missing = [name for name in ("id", *_TOKEN_TYPES) if name not in table.column_names]
        if missing:
            raise DataError(f"{path}: no column {', '.join(missing)}; this is no score file")
        try:
            return cls.from_table(table)
        except (DataError, pa.ArrowException, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{path}: {error}") from error

    @classmethod
    def from_table(cls, table: Any) -> TokenScores:
        """Rebuild the scores from rows of a `pyarrow.Table`.

        Args:
            table: with the columns of `to_table`; optional ones may be missing or empty, and those
                that it does not know are ignored.

        Returns:
            The scores.

        Raises:
            DataError: if a cell is empty or columns do not fit together.
        """
        flat: dict[str, Any] = {}
        offsets: dict[str, IntArray] = {}
        present = [n for n in table.column_names if table.column(n).null_count < max(1, len(table))]
        samplers = {name: key for name in present if (key := _sampler(name))}
        optional = [name for name in _OPTIONAL_TOKEN_TYPES if name in present]
        for name in (*_TOKEN_TYPES, *optional, *samplers):
            lists = table.column(name).combine_chunks()
            values = lists.flatten()
            if lists.null_count or values.null_count:
                raise DataError(f"column {name!r} has empty cells; the file is damaged")
            flat[name] = values.to_numpy(zero_copy_only=False)
            lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
            offsets[name] = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
            if not np.array_equal(offsets[name], offsets["log_prob"]):
                raise DataError(f"columns 'log_prob' and {name!r} differ in tokens a record")
        flat["sampled"] = {key: flat.pop(name) for name, key in samplers.items()}
        if "text_bytes" in present:
            flat["text_bytes"] = table.column("text_bytes").to_numpy()
        return cls(ids=tuple(table.column("id").to_pylist()), offsets=offsets["log_prob"], **flat)


def _column_name(key: Sampler) -> str:
    """Return the Parquet column of one sampler: `sampled[T=0.7,k=40]`."""
    return f"sampled[T={key[0]:g},k={key[1]}]"


def _sampler(column: str) -> Sampler | None:
    """Read a column's name back; None if it is no sampler's."""
    match = re.fullmatch(r"sampled\[T=([^,]+),k=(\d+)\]", column)
    return (float(match[1]), int(match[2])) if match else None


def _frozen(values: Any, kind: type[np.generic]) -> Any:
    """Return a read-only view of the values as one type, leaving the caller's array writable."""
    with np.errstate(invalid="raise"):
        try:
            view = np.asarray(values, dtype=kind).view()
        except FloatingPointError:
            raise DataError("a value is NaN or infinite where a whole number stands") from None
    view.flags.writeable = False
    return view


def _index(positions: Sequence[int] | IntArray | BoolArray) -> IntArray | BoolArray:
    """Return positions as an index array; an empty list is no positions, not an empty mask."""
    index = np.asarray(positions)
    return index.astype(np.int64) if index.size == 0 or index.dtype != np.bool_ else index


SAMPLER: Sampler = (1.0, 40)
"""Temperature 1 among the 40 likeliest tokens: the sampling that the paper studies most."""


SAMPLERS: tuple[Sampler, ...] = (SAMPLER,)
"""What an audit computes in its pass."""
