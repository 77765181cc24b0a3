"""Train again what a lineage describes, compare, and say what that shows."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.canaries.pairs import Canaries, check_planted, joined
from unlearn.config import called_with
from unlearn.data.record import Record
from unlearn.data.records import Records
from unlearn.data.splits import loaded
from unlearn.errors import LineageError, ModelError
from unlearn.model.folders import resolve_folder
from unlearn.provenance.digests import reading_files
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import FILE_NAME, Lineage, Start, now
from unlearn.runs.signature import differences
from unlearn_eval.certificate.files import deciding_files, weights_digest
from unlearn_eval.replay.claims import Choice, check_base, check_lineage, choose, near_copies_of
from unlearn_eval.replay.distance import (
    LIMIT,
    WeightsApart,
    apart_in_scores,
    apart_in_weights,
    otherwise_set,
    share,
)
from unlearn_eval.replay.options import ReplayOptions
from unlearn_eval.replay.result import Finding, Kind, Outcome, Replay
from unlearn_eval.replay.retraining import Again, opening_of, train_again

__all__ = ["replay", "run_replay"]

_ELSEWHERE = "cannot be looked at"
_SAMPLE = 64
"""Records on which log-probabilities are compared."""


def run_replay(options: ReplayOptions) -> Replay:
    """Train an adapter again from its lineage, in a fresh process, and compare it with the result.

    PASS if the lineage is of these weights, the base and the kept records are those it names, none
    of the forgotten ones is among them, no kept record nearly repeats one (where the data holds
    them), and the weights come out equal, bit by bit. Where another machine, other versions or
    threads made them differ, they must be as near as a hundredth of the distance of two seeds. FAIL
    if records to forget are among those trained on. INCONCLUSIVE otherwise.

    Raises UnlearnError for any input that cannot be used.
    """
    begun = time.perf_counter()
    adapter = resolve_folder(options.adapter, "adapter")
    line = Lineage.read(adapter)
    if line is None:
        raise LineageError(f"{adapter} has no {FILE_NAME}: nothing says how to train it again")
    if line.privacy is not None:
        raise LineageError(
            f"{adapter} was trained with differential privacy, and a replay would need its noise; "
            "repeat its `unlearn finetune` with the same key and compare the digests in the "
            "lineages"
        )
    records = _records(options, line, adapter)
    looked = _looked_at(options, adapter, line, records, _named(options, records))
    if looked.shown.cost:
        looked.shown.cost["whole"] = round(time.perf_counter() - begun, 3)
    return _result(adapter, line, looked)


replay = called_with(ReplayOptions, run_replay, "replay")


def _records(options: ReplayOptions, line: Lineage, adapter: Path) -> Records:
    """Return the data, followed by the canaries that were planted beside it, if they are given."""
    records = Records.load(options.data)
    if options.canaries is None:
        return records
    canaries = Canaries.read(options.canaries)
    check_planted(canaries, options.canaries, line, Key.load(), adapter)
    return joined(records, canaries.included)


def _named(options: ReplayOptions, records: Records) -> list[Record] | None:
    """Return the records that must be gone, of the data and others; None for the lineage's."""
    if options.forget is None and options.forgotten is None:
        return None
    of_data = () if options.forget is None else records.select(options.forget)
    return [*of_data, *(() if options.forgotten is None else loaded(options.forgotten))]


@dataclass(frozen=True)
class _Looked:
    """What was found, what the second training showed, and digests of the forgotten records."""

    findings: Sequence[Finding]
    shown: _Shown
    forgotten: Sequence[str]


def _looked_at(
    options: ReplayOptions,
    adapter: Path,
    line: Lineage,
    records: Records,
    named: Sequence[Record] | None,
) -> _Looked:
    """Check what a lineage claims, and train again where that can show anything."""
    lineage = check_lineage(line, adapter)
    if not lineage.passed:  # what it says of records is not of these weights, or proves nothing
        return _Looked([lineage], _Shown(), line.records.forgotten)
    choice = choose(line, records, named, Key.load())
    model = resolve_folder(options.model or line.base.name, "model")
    base, near = check_base(line, model), near_copies_of(choice, records)
    findings = [lineage, base, *choice.findings, *filter(None, (near, _kept_loss(line)))]
    if not (choice.trains and base.passed):
        return _Looked(findings, _Shown(), choice.forgotten)
    begun = _Begun()
    if line.start is not None:
        begun = _begun(options, line.start, records, choice)
        findings += begun.findings
    if begun.findings and begun.kind is None:
        return _Looked(findings, _Shown(), choice.forgotten)
    again = Again(
        line,
        adapter,
        model,
        str(options.data),
        choice.kept,
        opening_of(line, options.opening),
        options.quiet,
        None if options.canaries is None else str(options.canaries),
        begun.folder,
    )
    unseen = None if options.holdout is None else Records.load(options.holdout)
    with tempfile.TemporaryDirectory(prefix="unlearn-replay-") as scratch:
        shown = _compared(again, records, unseen, Path(scratch))
    if shown.kind and begun.kind == "up to rounding":
        shown.kind = begun.kind
    return _Looked([*findings, *shown.findings], shown, choice.forgotten)


@dataclass(frozen=True)
class _Begun:
    """What training began with: its folder, how closely it came out again, and what was found.

    Nothing of it is there where training began with a fresh adapter.
    """

    findings: Sequence[Finding] = ()
    folder: Path | None = None
    kind: Kind | None = None


def _begun(options: ReplayOptions, start: Start, records: Records, choice: Choice) -> _Begun:
    """Find the adapter that training began with, and train that one again, too.

    Without this, an old adapter beside the lineage of another could be named as the start.
    """
    folder = Path(options.start or start.name)
    if not folder.is_dir():
        return _open_start(
            f"the adapter that training began with ({start.digest[:19]}…) does not lie at {folder}"
        )
    line = Lineage.read(folder)
    if line is None or weights_digest(folder) != start.digest:
        what = "has no lineage" if line is None else "is not the adapter that training began with"
        return _open_start(f"{folder} {what}")
    if seen := len(set(line.records.trained) & set(choice.forgotten)):
        words = f"what training began with saw {seen} of the forgotten records, by its lineage"
        return _Begun([Finding("start", False, words, damning=True)])
    named = [*records.take(choice.gone), *choice.named]
    nested = replace(options, start=None, holdout=None)
    looked = _looked_at(nested, folder, line, records, named)
    # how well it knows the kept records is its own matter, and digests were compared above
    own = {"kept loss", "forgotten"}
    wrong = [f for f in looked.findings if f.passed is not True and f.what not in own]
    if wrong or looked.shown.kind is None:
        words = "; ".join(f.words for f in wrong)
        return _Begun([Finding("start", None, f"of what training began with: {words}")])
    words = "what training began with was trained again, too, without a forgotten record"
    return _Begun([Finding("start", True, words)], folder, looked.shown.kind)


def _open_start(problem: str) -> _Begun:
    """Say what is missing of a start."""
    return _Begun([Finding("start", None, f"{problem}: name the folder of that one with --start")])


@dataclass
class _Shown:
    """What the second training showed; nothing where there was none."""

    findings: Sequence[Finding] = ()
    kind: Kind | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    distance: Mapping[str, Any] | None = None
    cost: dict[str, float] = field(default_factory=dict)


def _result(adapter: Path, line: Lineage, looked: _Looked) -> Replay:
    """Decide, and put together what was found."""
    findings, shown = [*looked.findings], looked.shown
    outcome = _outcome(findings, shown.kind)
    return Replay(
        created=now(),
        outcome=outcome,
        kind=shown.kind if outcome == "PASS" else None,
        findings=findings,
        not_looked_at=_left_open(line, adapter, findings),
        adapter={
            "weights": weights_digest(adapter),
            "files": deciding_files(adapter),
            "lineage": hashlib.sha256((adapter / FILE_NAME).read_bytes()).hexdigest(),
            "method": line.method,
            "seed": line.seed,
        },
        base={"name": line.base.name, "weights": line.base.digest},
        records={
            "key_id": line.records.key_id,
            "trained": len(line.records.trained),
            "forgotten": list(looked.forgotten),
        },
        environment=shown.environment,
        distance=shown.distance,
        cost=shown.cost,
    )


def _outcome(findings: Sequence[Finding], kind: Kind | None) -> Outcome:
    """Decide: what is shown to be trained on decides first, and nothing else makes a FAIL."""
    if any(each.damning for each in findings):
        return "FAIL"
    return "PASS" if kind and all(each.passed for each in findings) else "INCONCLUSIVE"


def _compared(again: Again, records: Records, unseen: Records | None, scratch: Path) -> _Shown:
    """Train again, and compare weights and settings."""
    first = scratch / "first" / "adapter"
    try:
        made = train_again(again, first, again.line.seed)
    except ModelError as error:  # it has other tensors than its settings make
        return _Shown([Finding("weights", False, str(error))])
    cost = {"there": _seconds(again.line), "here": _seconds(made)}
    there, here = _environment(again.line), _environment(made)
    differ = differences(there, here) if again.line.environment else ["where it was trained"]
    environment = {"there": there, "here": here, "differ": differ}
    apart = apart_in_weights(again.adapter, first)
    settings = _same_settings(again.adapter, first)
    if not (apart.strange or apart.unequal):
        words = f"training again gave the same weights: all {apart.tensors} tensors, bit by bit"
        if differ:
            words += f", though other is {_few(differ)}"
        return _Shown([Finding("weights", True, words), settings], "exact", environment, None, cost)
    if apart.strange or not differ or not np.isfinite(apart.most):
        return _Shown([_other_weights(apart), settings], None, environment, None, cost)
    distance = _distances(again, apart, records, unseen, scratch)
    weights = _near_enough(distance, differ)
    kind: Kind | None = "up to rounding" if weights.passed else None
    return _Shown([weights, settings], kind, environment, distance, cost)


def _distances(
    again: Again, apart: WeightsApart, records: Records, unseen: Records | None, scratch: Path
) -> dict[str, Any]:
    """Measure how far the adapter is from the replay, beside how far another seed's is."""
    first, second = scratch / "first" / "adapter", scratch / "second" / "adapter"
    train_again(again, second, again.line.seed + 1)
    near = {"weights": apart.most}
    far = {"weights": apart_in_weights(first, second).most}
    kept = records.take(again.kept)
    for name, part in (("kept", kept), ("unseen", unseen)):
        if part is None:
            continue
        places = np.linspace(0, len(part) - 1, min(len(part), _SAMPLE)).round().astype(int)
        near[name], far[name] = apart_in_scores(
            again.model,
            [first, again.adapter, second],
            part.take([int(i) for i in places]),
            again.line.template,
            again.opening,
        )
    return {"replay": near, "seeds": far, "share": share(near, far), "limit": LIMIT}


def _near_enough(distance: Mapping[str, Any], differ: Sequence[str]) -> Finding:
    """Say whether a distance is one that rounding makes."""
    part = distance["share"]
    where = " and of what nobody saw" if "unseen" in distance["replay"] else ""
    words = (
        f"not bit by bit the same, as other is {_few(differ)}: apart by {part:.2g} of what two "
        f"seeds are, in weights and in log-probabilities of kept records{where}"
    )
    if part <= LIMIT:
        return Finding("weights", True, f"{words}; at most {LIMIT:g} counts as rounding")
    more = f"; more than {LIMIT:g} is no rounding: replay it where it was trained"
    return Finding("weights", False, words + more)


def _other_weights(apart: WeightsApart) -> Finding:
    """Say how weights differ that nothing excuses."""
    if apart.strange:
        words = (
            f"{len(apart.strange)} tensor(s) are in one alone or of another shape, first "
            f"{apart.strange[0]}"
        )
    else:
        words = (
            f"{apart.unequal} of {apart.tensors} tensors differ, by {apart.most:.2g} at most, and "
            "nothing rounds otherwise here"
        )
    return Finding("weights", False, f"training again gave other weights: {words}")


def _same_settings(adapter: Path, again: Path) -> Finding:
    names = otherwise_set(adapter, again)
    if names:
        words = f"its configuration is not what training makes: {', '.join(names)}"
        return Finding("configuration", False, words)
    return Finding("configuration", True, "its configuration is what training makes")


def _kept_loss(line: Lineage) -> Finding | None:
    """Say whether the kept records are known as well as before; None where no lineage tells."""
    trail = getattr(line, "budget", None) or {}
    losses = trail.get("kept_loss") or {}
    if not {"new", "target"} <= set(losses) or "quality" not in trail:
        return None
    apart, allowed = losses["new"] - losses["target"], trail["quality"]
    words = (
        f"by the lineage, the loss on kept records is {losses['new']:.2f}, to be within "
        f"{allowed:.2f} of {losses['target']:.2f}"
    )
    return Finding("kept loss", abs(apart) <= allowed, words)


def _left_open(line: Lineage, adapter: Path, findings: Sequence[Finding]) -> list[str]:
    """Say what a replay does not look at."""
    sentences = [
        "What the base model knows by itself: it was trained by others before.",
        "Other adapters, merges and copies of the data.",
        "Kept records that say the same in other words: only repeated characters are found.",
    ]
    looked = {each.what for each in findings}
    if "near-copies" not in looked:
        sentences[2] = (
            "Kept records that nearly repeat forgotten ones, or say the same in other words: the "
            "data at hand does not hold the forgotten ones, or too many records to compare."
        )
    if any(each.what == "near-copies" and _ELSEWHERE in each.words for each in findings):
        sentences.append("Near-copies of the forgotten records that are not at hand.")
    if reading_files(adapter):
        sentences.append("The tokenizer and chat template that the adapter brings along.")
    if "kept loss" not in looked:
        sentences.append("How well the kept records are known: the lineage holds no such number.")
    return sentences


def _environment(line: Lineage) -> dict[str, Any]:
    return {**line.environment, "versions": dict(line.versions)}


def _seconds(line: Lineage) -> float:
    return float(line.cost.get("seconds") or 0.0)


def _few(names: Sequence[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
