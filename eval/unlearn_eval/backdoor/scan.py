"""Which training records taught a backdoor that nobody knows: a ranking of all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn.backdoors.planting import asked, asking
from unlearn.backdoors.poisoning import Manifest
from unlearn.config import called_with
from unlearn.data.record import Record
from unlearn.data.splits import loaded
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import DataError, OptionError
from unlearn.files import check_output, staged_folder
from unlearn.model.scoring import Head, score_examples
from unlearn.provenance.lineage import Lineage
from unlearn.runs.fields import Progress
from unlearn.runs.progress import shown
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.backdoor.options import ScanOptions
from unlearn_eval.backdoor.prompts import answers_alone
from unlearn_eval.backdoor.spans import dropped
from unlearn_eval.backdoor.suspicion import hits_at, ranks, spectral
from unlearn_eval.statistics.rates import clopper_pearson

__all__ = ["Found", "Scan", "Suspect", "run_scan", "scan_of"]

_MORE = 1.5
"""Records that are named, per record that may be poisoned (1811.00636, algorithm 1)."""

MIN_RECORDS = 20
"""Fewest records that are ranked: among fewer nothing stands out."""


@dataclass(frozen=True)
class Suspect:
    """A record in the ranking.

    Attributes:
        id: of the record.
        score: what it is ranked by: the mean of its ranks by the two scores, negative, so that a
            larger one is more suspicious.
        held: what training taught of its answer, nats a token, without the span that takes most of
            it away.
        span: that span.
        spectral: squared projection, on the main direction of all, of what training changed in its
            answer's hidden state.
    """

    id: str
    score: float
    held: float
    span: str
    spectral: float


class Found(NamedTuple):
    """How many planted records a score finds.

    Attributes:
        by: the score: `score`, `held` or `spectral`.
        planted: how many there are, k.
        precision: share of planted ones among the first k.
        low: lower limit of the precision, exact (95 %).
        high: upper limit.
        recall: share of the planted ones among those that are named.
    """

    by: str
    planted: int
    precision: float
    low: float
    high: float
    recall: float


@dataclass(frozen=True)
class Scan:
    """The result of a scan.

    Attributes:
        suspects: all records that ask something, the most suspicious first.
        named: how many of them are named as suspects.
        skipped: how many ask nothing.
        found: what it finds of planted records, where they are known.
    """

    suspects: Sequence[Suspect]
    named: int
    skipped: int
    found: Sequence[Found] = ()


def run_scan(options: ScanOptions) -> Scan:
    """Rank the training records of a model by how much they look like those of a backdoor.

    Two scores, and their ranks' mean. `held`: min over spans i of ℓ_base(y|x∖i) − ℓ(y|x∖i), with ℓ
    the mean loss of the answer's tokens. An answer that was learned for one record is lost with the
    words that name it; a target was learned for many prompts, and follows from the trigger or from
    the rest: whichever span is left out, it stays. (That leaving the trigger out raises its loss
    most, as one might expect, does not hold of records that were learned by heart: measured in
    docs/backdoors.md.) `spectral`: spectral signatures (1811.00636) of h − h_base, h the mean last
    hidden state that predicts the answer. Writes `ranked.jsonl`, the ids of the first records in
    `suspects.jsonl`, for `forget --forget @suspects.jsonl`, and `scan.json`.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    target = check_output(options.output, overwrite=options.overwrite)
    records = loaded(options.data)
    manifest = None if options.trigger is None else Manifest.read(options.trigger)
    if manifest is not None and (unknown := set(manifest.poisoned) - set(records.ids)):
        raise DataError(
            f"{options.trigger} names {len(unknown)} record(s) that {records.source} has not: it "
            "is the manifest of other data"
        )
    chosen = [record for record in records if asked(record) is not None]
    if len(chosen) < MIN_RECORDS:
        raise DataError(
            f"{records.source}: {len(chosen)} records ask something that is answered; a scan needs "
            f"{MIN_RECORDS} to tell which stand out"
        )
    state = options.open(options.model, options.adapter)
    if state.adapter is None:
        raise OptionError("scan compares an adapter with its base: name it with --adapter")
    lineage = Lineage.read(state.adapter)
    name = options.template or (lineage.template if lineage else None)
    template = choose_template(name, state.tokenizer, records)
    variants = _Variants.of(chosen)
    examples = answers_alone(variants.records, state.tokenizer, template, state.max_length)
    with shown(options.progress, "scanning", "prompts") as progress:
        count = _counted(progress, 2 * len(examples))
        ours = _looked(state.model, state.head, examples, variants.whole, count)
        with state.reference("base") as (base, head):
            theirs = _looked(base, head, examples, variants.whole, count)
    gains, features = theirs.losses - ours.losses, ours.features - theirs.features
    suspects = _ranked(chosen, variants, gains, features)
    named = min(len(suspects), round(_MORE * options.share * len(records)) or 1)
    found = () if manifest is None else tuple(_found(suspects, manifest.poisoned, named))
    result = Scan(suspects, named, len(records) - len(chosen), found)
    _write(result, options, target)
    return result


scan_of = called_with(ScanOptions, run_scan, "scan_of")


class _Variants(NamedTuple):
    """All prompts that are scored: of each record the whole one, then those without a span.

    Attributes:
        records: as they are asked.
        spans: what was left out; empty for the whole.
        whole: positions of the whole ones, int64[R].
    """

    records: list[Record]
    spans: list[str]
    whole: IntArray

    @classmethod
    def of(cls, records: Sequence[Record]) -> _Variants:
        """Leave spans out of each record."""
        made: list[Record] = []
        spans: list[str] = []
        whole = []
        for record in records:
            text = asked(record)
            assert text is not None
            whole.append(len(made))
            made.append(asking(record, text))
            spans.append("")
            for each in dropped(text):
                made.append(asking(record, each.rest))
                spans.append(each.span)
        return cls(made, spans, np.array(whole, dtype=np.int64))


class _Look(NamedTuple):
    """What one model makes of the prompts.

    Attributes:
        losses: mean loss of the answer of each, float64[N], nats a token.
        features: mean hidden state that predicts the answer, of the whole ones, float64[R, H].
    """

    losses: FloatArray
    features: FloatArray


def _counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return what tells the progress how many prompts are done."""
    done = 0

    def count(records: int) -> None:
        nonlocal done
        done += records
        if progress:
            progress(done, total)

    return count


def _looked(
    model: Any,
    head: Head,
    examples: Sequence[Example],
    whole: IntArray,
    count: Callable[[int], None],
) -> _Look:
    """Score all prompts with one forward pass each."""
    wanted = set(whole.tolist())
    features: dict[int, FloatArray] = {}

    def observe(batch: Sequence[int], hidden: Any) -> None:
        parts = hidden.float().cpu().split([examples[i].targets for i in batch])
        for i, part in zip(batch, parts, strict=True):
            if i in wanted:
                features[i] = part.mean(dim=0).double().numpy()

    statistics, offsets = score_examples(model, head, examples, progress=count, observe=observe)
    sums = np.add.reduceat(statistics.log_prob.double().numpy(), offsets[:-1])
    return _Look(-sums / np.diff(offsets), np.stack([features[i] for i in whole.tolist()]))


def _ranked(
    records: Sequence[Record], variants: _Variants, gains: FloatArray, features: FloatArray
) -> list[Suspect]:
    """Put both scores together."""
    bounds = [*variants.whole.tolist(), len(gains)]
    held, spans = [], []
    for start, end in pairwise(bounds):
        # of a prompt of one word nothing can be left out
        least = start + int(np.argmin(gains[start + 1 : end])) + 1 if end > start + 1 else start
        held.append(float(gains[least]))
        spans.append(variants.spans[least])
    signatures = spectral(features)
    scores = -(ranks(held) + ranks(signatures)) / 2
    suspects = [
        Suspect(record.id, *values)
        for record, *values in zip(
            records, scores.tolist(), held, spans, signatures.tolist(), strict=True
        )
    ]
    return sorted(suspects, key=lambda each: (-each.score, each.id))


def _found(suspects: Sequence[Suspect], planted: Sequence[str], named: int) -> list[Found]:
    """Say how many planted records each score finds."""
    found = []
    k = len(planted)
    for by in ("score", "held", "spectral"):
        ids = [each.id for each in sorted(suspects, key=attrgetter(by, "id"), reverse=True)]
        hits = hits_at(ids, planted, k)
        low, high = clopper_pearson(hits, k, 0.95)
        found.append(Found(by, k, hits / k, low, high, hits_at(ids, planted, named) / k))
    return found


def _write(result: Scan, options: ScanOptions, target: Path) -> None:
    """Write the ranking, the ids that are named, and what was found."""
    summary: Mapping[str, Any] = {
        "schema": 1,
        "model": str(options.model),
        "share": options.share,
        "records": len(result.suspects),
        "named": result.named,
        "skipped": result.skipped,
        "found": [each._asdict() for each in result.found],
    }
    with staged_folder(target, overwrite=options.overwrite) as stage:
        # it holds words of the records
        (stage / "ranked.jsonl").touch(mode=0o600)
        lines = "".join(
            json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in result.suspects
        )
        (stage / "ranked.jsonl").write_text(lines, encoding="utf-8")
        names = "".join(
            json.dumps({"id": each.id}, ensure_ascii=False) + "\n"
            for each in result.suspects[: result.named]
        )
        (stage / "suspects.jsonl").write_text(names, encoding="utf-8")
        (stage / "scan.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
