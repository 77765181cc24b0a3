"""Run probes over model states and lay the results out as a tidy table."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unlearn import lineage as lin
from unlearn._output import check_output, staged_folder
from unlearn.batches import Example, encode
from unlearn.errors import DataError, LineageError, OutputError
from unlearn.lineage import Lineage
from unlearn.models import ModelState, open_model, swap_adapters
from unlearn.records import Records
from unlearn.templates import choose_template
from unlearn_eval.extraction import PROBES
from unlearn_eval.membership import ATTACKS
from unlearn_eval.scores import TokenScores
from unlearn_eval.scoring import score_model
from unlearn_eval.statistics import (
    Interval,
    auc_interval,
    mean_interval,
    proportion_interval,
    tpr_at_fpr,
)
from unlearn_eval.utility import loss

__all__ = ["Audit", "AuditRow", "audit_rows", "run_audit"]

Scores = Mapping[str, Mapping[str, TokenScores]]
"""Score matrices by state (`before`, `after`, `reference:0`, …, `base`) and split."""

_FPR = 0.01


@dataclass(frozen=True)
class AuditRow:
    """One number of an audit: a probe's metric on one split of one state, with its interval.

    Attributes:
        state: `before`, `after`, `reference:0` …, `base`.
        split: `forget`, `retain`, `holdout`.
        probe: `package.file` of the probe.
        metric: `auc`, `tpr@fpr=0.01`, `rate`, `mean`.
        value: the estimate; None where it was refused, with the reason in `note`.
        low: lower limit, None if there is none.
        high: upper limit, None if there is none.
        n: records it rests on.
        level: confidence level of the interval.
        interval: how it was made.
        clusters: distinct subjects among the records, where subjects are known.
        prompt_state: how the record was prompted.
        deployment: the form in which the model was run.
        params: the probe's parameters.
        note: what a reader must know besides.
    """

    state: str
    split: str
    probe: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    level: float
    interval: str
    clusters: int | None = None
    prompt_state: str = "verbatim"
    deployment: str = "as-is"
    params: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        model: the base as named.
        states: weights digest of each state.
        rows: the numbers.
        scores: the score matrices they were made from.
        notes: what the user should know.
    """

    model: str
    states: Mapping[str, str]
    rows: Sequence[AuditRow]
    scores: Scores = field(repr=False)
    notes: tuple[str, ...] = ()

    def get(self, state: str, split: str, probe: str, metric: str) -> AuditRow:
        """Return one row.

        Args:
            state: its state.
            split: its split.
            probe: its probe.
            metric: its metric.

        Returns:
            The row.

        Raises:
            KeyError: if the audit has no such row.
        """
        for row in self.rows:
            if (row.state, row.split, row.probe, row.metric) == (state, split, probe, metric):
                return row
        raise KeyError((state, split, probe, metric))

    def as_json(self) -> str:
        """Return the content of `audit.json`, schema 1."""
        return json.dumps(
            {
                "schema": 1,
                "created": lin.now(),
                "model": self.model,
                "states": dict(self.states),
                "notes": list(self.notes),
                "rows": [asdict(row) for row in self.rows],
            },
            indent=1,
            allow_nan=False,
        )


def audit_rows(
    scores: Scores, subjects: Mapping[str, Sequence[Hashable | None]], level: float = 0.95
) -> list[AuditRow]:
    """Compute every number of an audit from score matrices.

    Membership compares the forget records (members) with the holdout (non-members) within one
    state; attacks that need the base use the state `base` where there is one.

    Args:
        scores: by state and split; every state has the same splits.
        subjects: by split, the subject of each record, or None where it has none.
        level: confidence level of all intervals.

    Returns:
        One row a (state, split, probe, metric).
    """
    rows: list[AuditRow] = []
    base = scores.get("base", {})
    for state, splits in scores.items():
        for split, matrix in splits.items():
            clusters = _clusters(subjects.get(split))
            found = mean_interval(loss.score(matrix), level, clusters)
            rows.append(_row(state, split, "utility.loss", "mean", found))
            for probe in PROBES.values():
                interval = proportion_interval if probe.metric == "rate" else mean_interval
                found = interval(probe.score(matrix), level, clusters)
                rows.append(_row(state, split, f"extraction.{probe.name}", probe.metric, found))
        rows += _membership_rows(state, splits, base, subjects, level)
    return rows


def _membership_rows(
    state: str,
    splits: Mapping[str, TokenScores],
    base: Mapping[str, TokenScores],
    subjects: Mapping[str, Sequence[Hashable | None]],
    level: float,
) -> list[AuditRow]:
    """AUC and TPR of every attack on the forget records against the holdout."""
    rows = []
    member, other = splits["forget"], splits.get("holdout")
    clusters = (_clusters(subjects.get("forget")), _clusters(subjects.get("holdout")))
    for attack in ATTACKS.values():
        probe = f"membership.{attack.name}"
        if attack.needs_base and (state == "base" or not base):
            continue
        if other is None:
            note = "no records the model never saw: pass --holdout"
            refused = Interval(
                math.nan, math.nan, math.nan, member.records, level, "none", None, note
            )
            rows.append(_row(state, "forget", probe, "auc", refused))
            continue
        x = attack.score(member, base.get("forget"))
        y = attack.score(other, base.get("holdout"))
        rows.append(_row(state, "forget", probe, "auc", auc_interval(x, y, level, *clusters)))
        found = tpr_at_fpr(x, y, _FPR, level)
        rows.append(_row(state, "forget", probe, f"tpr@fpr={_FPR}", found))
    return rows


def _clusters(labels: Sequence[Hashable | None] | None) -> Sequence[Hashable] | None:
    """Return cluster labels, or None where no record has a subject."""
    known = labels is not None and any(label is not None for label in labels)
    return labels if known else None


def _row(state: str, split: str, probe: str, metric: str, found: Interval) -> AuditRow:
    value, low, high = (None if math.isnan(x) else float(x) for x in found[:3])
    return AuditRow(
        state=state,
        split=split,
        probe=probe,
        metric=metric,
        value=value,
        low=low,
        high=high,
        n=found.n,
        level=found.level,
        interval=found.method,
        clusters=found.clusters,
        note=found.note,
    )


def run_audit(
    model: str | Path,
    data: str | Path | Records,
    forget: str,
    output: str | Path | None = None,
    *,
    adapter: str | Path | Sequence[str | Path] | None = None,
    before: str | Path | None = None,
    references: Sequence[str | Path] = (),
    holdout: str | Path | Records | None = None,
    retain: str | Path | Records | None = None,
    template: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **opening: Any,
) -> Audit:
    """Measure one unlearned state beside itself before, references and the base.

    Every state is run once: one forward pass over each record serves all probes.

    Args:
        model: base model; without `adapter`, the fully fine-tuned, unlearned model.
        data: the records of the original training.
        forget: which of them were taken out (IDS syntax).
        output: folder for `audit.json` and `scores.parquet`; None writes nothing.
        adapter: the unlearned adapter, on top of any others before it.
        before: the adapter (or full model) before unlearning.
        references: adapters (or full models) that never saw the records.
        holdout: records no state ever saw.
        retain: the records kept, where `data` no longer holds the rest.
        template: how records are written; by default what the lineage says.
        seed: kept for probes that draw at random; none of today's does.
        overwrite: replace an output folder that is not empty.
        progress: called with (records scored, records in all).
        **opening: `dtype`, `device`, `trust_remote_code`, `load_in_4bit` of `open_model`.

    Returns:
        The audit.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is written then.
    """
    del seed
    if output is not None:
        check_output(output, overwrite=overwrite)
    records = _load(data)
    gone = records.select(forget)
    split = {"forget": gone, "retain": (_load(retain) if retain else records).without(gone)}
    if holdout is not None:
        split["holdout"] = _load(holdout)
    split = {name: part for name, part in split.items() if len(part)}
    _check_overlap(split)
    below, last = _stack(adapter)
    state = open_model(model, [*below, *([last] if last else [])], **opening)
    _check_references(references, gone)
    line = Lineage.read(state.adapter or state.folder)
    name = template or (line.template if line else None)
    used = choose_template(name, state.tokenizer, records)
    notes = () if name else (f"no lineage names the template: assumed {used.name!r}",)
    examples = {
        key: encode(part, state.tokenizer, used, state.max_length) for key, part in split.items()
    }
    wanted: dict[str, str | Path] = {}
    if before is not None:
        wanted["before"] = before
    wanted |= {f"reference:{i}": path for i, path in enumerate(references)}
    count = _Counter(progress, (len(wanted) + 1 + bool(last)), examples)
    scores: dict[str, dict[str, TokenScores]] = {}
    digests: dict[str, str] = {}
    for key, path in wanted.items():
        other = _open_other(state, below, path, last, opening)
        scores[key] = _score(other.model, other, examples, count)
        digests[key] = other.digest()
        if last:
            state = other
    if last and wanted:
        state = swap_adapters(state, [*below, last])
    scores["after"] = _score(state.model, state, examples, count)
    digests["after"] = state.digest()
    if last:
        with state.reference("base") as (base, head):
            scores["base"] = {
                key: score_model(base, head, part, progress=count) for key, part in examples.items()
            }
        digests["base"] = state.base_digest()
    order = [k for k in ("before", "after", *wanted, "base") if k in scores]
    scores = {key: scores[key] for key in dict.fromkeys(order)}
    rows = audit_rows(scores, {key: part.subjects for key, part in split.items()})
    result = Audit(str(model), {k: digests[k] for k in scores}, rows, scores, notes)
    if output is not None and os.environ.get("RANK", "0") == "0":
        _write(result, Path(output), overwrite)
    return result


class _Counter:
    """Turns 'this many records done' into (done, total)."""

    def __init__(
        self,
        progress: Callable[[int, int], None] | None,
        states: int,
        examples: Mapping[str, Sequence[Example]],
    ) -> None:
        self._progress = progress
        self._done = 0
        self._total = states * sum(map(len, examples.values()))

    def __call__(self, records: int) -> None:
        self._done += records
        if self._progress:
            self._progress(self._done, self._total)


def _score(
    model: Any, state: ModelState, examples: Mapping[str, Sequence[Example]], count: _Counter
) -> dict[str, TokenScores]:
    return {
        key: score_model(model, state.head, part, progress=count) for key, part in examples.items()
    }


def _stack(
    adapter: str | Path | Sequence[str | Path] | None,
) -> tuple[list[str | Path], str | Path | None]:
    """Split adapters into those below and the one under audit."""
    if adapter is None:
        return [], None
    stack = [adapter] if isinstance(adapter, (str, Path)) else list(adapter)
    return stack[:-1], (stack[-1] if stack else None)


def _open_other(
    state: ModelState,
    below: Sequence[str | Path],
    path: str | Path,
    adapter: str | Path | None,
    opening: Mapping[str, Any],
) -> ModelState:
    """Open another state: other adapters on the same base in memory, or another full model."""
    if adapter is not None:
        return swap_adapters(state, [*below, path])
    other = open_model(path, **opening)
    if other.tokenizer.get_vocab() != state.tokenizer.get_vocab():
        raise DataError(
            f"{path} reads text with another tokenizer than {state.name}: their scores cannot be "
            "compared"
        )
    return other


def _check_overlap(split: Mapping[str, Records]) -> None:
    """Refuse a holdout that shares exact copies with the other splits."""
    if "holdout" not in split:
        return
    known = {r.canonical for key, part in split.items() if key != "holdout" for r in part}
    shared = [r.id for r in split["holdout"] if r.canonical in known]
    if shared:
        raise DataError(
            f"--holdout: {len(shared)} record(s) are also in the forget or retain data, first "
            f"{shared[0]!r}; a holdout must be unseen"
        )


def _check_references(references: Sequence[str | Path], gone: Records) -> None:
    """Refuse a reference whose lineage shows that it did see the records."""
    for path in references:
        line = Lineage.read(path)
        if line is None:
            continue
        key = lin.Key.load()
        if line.records.key_id != key.id:
            continue
        seen = {key.digest(r): r.id for r in gone}
        shared = [seen[d] for d in line.records.trained if d in seen]
        if shared:
            raise LineageError(
                f"--reference {path}: its lineage shows that it was trained on {len(shared)} of "
                f"the records to forget, first {shared[0]!r}; a reference must never have seen them"
            )


def _load(source: str | Path | Records) -> Records:
    return source if isinstance(source, Records) else Records.load(source)


def _write(result: Audit, folder: Path, overwrite: bool) -> None:
    """Write `audit.json` and `scores.parquet` together."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for state, splits in result.scores.items():
        for split, matrix in splits.items():
            table = matrix.to_table()
            for position, (name, value) in enumerate((("state", state), ("split", split))):
                table = table.add_column(position, name, pa.array([value] * matrix.records))
            parts.append(table)
    try:
        text = result.as_json()
    except ValueError as error:
        raise OutputError(f"audit.json would hold a number that JSON has not: {error}") from error
    with staged_folder(folder, overwrite=overwrite) as stage:
        pq.write_table(pa.concat_tables(parts), stage / "scores.parquet")
        (stage / "audit.json").write_text(text + "\n", encoding="utf-8")
