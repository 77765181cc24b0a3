"""Read an audit back from its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn.errors import DataError
from unlearn.provenance.eligibility import unfit
from unlearn_eval.certificate.shape import Each, MisfitError, fit
from unlearn_eval.certificate.trained_on import folders_in, trained_on
from unlearn_eval.results.audit_result import Audit, AuditRow
from unlearn_eval.results.scores_file import read_scores
from unlearn_eval.results.shapes import AUDIT_FILE, CLAIM, REFERENCE_FACTS, checked_file
from unlearn_eval.scores.measures import Scores
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.utility import loss
from unlearn_eval.verdict.evidence import Evidence, PrivacyClaim, ProvenanceFact, Twins, View
from unlearn_eval.verdict.looks import facts_of_looks, looks_of
from unlearn_eval.verdict.pairs import canaries_of, check_file, twins_of
from unlearn_eval.verdict.policy import AS_IS, VERBATIM

__all__ = [
    "AUDIT",
    "SCORES",
    "ScoreFile",
    "evidence_of",
    "load_audit",
    "load_evidence",
    "load_scores",
    "read_audit",
    "sha256",
]

AUDIT, SCORES = "audit.json", "scores.parquet"

_LIKENESS = ("surplus", "otherwise")
_SILENT = "without a lineage under the audit's key that says what it saw"
_COIN = (
    "a coin decided which of each pair was included: a file of twins can only say so, and counts "
    "as plain twins (tier C); plant canaries and audit with --canaries, to which the adapter's "
    "lineage commits"
)


class ScoreFile(NamedTuple):
    """What `scores.parquet` holds.

    Attributes:
        views: by view, score matrices by state and split.
        subjects: by split, the subject of each record, None where it has none.
    """

    views: Mapping[View, Scores]
    subjects: Mapping[str, Sequence[Hashable | None]]


def load_scores(folder: str | Path) -> ScoreFile:
    """Read the score matrices of an audit.

    Args:
        folder: what `unlearn audit` wrote.

    Returns:
        All matrices: of the models as they are, treated, and asked in other ways.

    Raises:
        DataError: if `scores.parquet` is missing or holds something else.
    """
    views: dict[View, dict[str, dict[str, TokenScores]]] = {}
    subjects: dict[str, Sequence[Hashable | None]] = {}
    for place, part in read_scores(Path(folder) / SCORES).items():
        view = View(place.deployment, place.prompt_state)
        views.setdefault(view, {}).setdefault(place.state, {})[place.split] = part.scores
        if view == View():
            subjects.setdefault(place.split, part.clusters)
    _check_same_records(Path(folder) / SCORES, views.get(View(), {}))
    return ScoreFile(views, subjects)


def _check_same_records(path: Path, states: Scores) -> None:
    """Refuse states that were not asked about the same records: they are compared one by one."""
    first: dict[str, Sequence[str]] = {}
    for state, splits in states.items():
        for split, matrix in splits.items():
            if list(matrix.ids) != list(first.setdefault(split, matrix.ids)):
                raise DataError(
                    f"{path}: state {state!r} has other records of the split {split!r} than the "
                    "first; run the audit again"
                )


def read_audit(folder: str | Path) -> dict[str, Any]:
    """Read `audit.json`.

    Raises DataError if it is missing or of another schema.
    """
    path = Path(folder) / AUDIT
    try:
        return checked_file(path, AUDIT_FILE, "audit", "run `unlearn audit`")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no audit; make one with `unlearn audit`") from None


def sha256(folder: str | Path) -> str:
    """Return the SHA-256 of `audit.json` in hexadecimal."""
    return hashlib.sha256((Path(folder) / AUDIT).read_bytes()).hexdigest()


def load_audit(folder: str | Path) -> Audit:
    """Read an audit back, but for `measures` and `said`, which no file holds in full.

    Raises DataError if a file is missing or holds something else.
    """
    content = read_audit(folder)
    file = load_scores(folder)
    scores = file.views.get(View(), {})
    prompted: dict[str, dict[str, TokenScores]] = {}
    treated: dict[str, dict[str, Mapping[str, TokenScores]]] = {}
    for view, states in file.views.items():
        if view.deployment == AS_IS and view.prompt_state != VERBATIM:
            for state, splits in states.items():
                prompted.setdefault(state, {})[view.prompt_state] = splits["forget"]
        elif view.deployment != AS_IS:
            for state, splits in states.items():
                treated.setdefault(state, {})[view.deployment] = splits
    try:
        rows = [AuditRow(**row) for row in content["rows"]]
    except TypeError as error:
        raise DataError(f"{Path(folder) / AUDIT}: a row is not one of schema 1: {error}") from error
    return Audit(
        model=content["model"],
        states=content["states"],
        rows=rows,
        scores=scores,
        prompted=prompted,
        training=content.get("training", {}),
        treated=treated,
        subjects=file.subjects,
        notes=tuple(content.get("notes", ())),
        unmeasured=content.get("unmeasured", {}),
        files=content.get("files", {}),
        records=content.get("records", {}),
        references=content.get("references", {}),
        policy=content.get("policy"),
        canaries=content.get("canaries"),
        backdoor=content.get("backdoor"),
        looks=content.get("looks"),
    )


def load_evidence(
    folder: str | Path,
    twins: str | Path | None = None,
    references: Sequence[str | Path] = (),
    canaries: str | Path | None = None,
) -> Evidence:
    """Read from an audit's folder what a verdict is decided from, and check that it is one story.

    An audit of planted canaries holds which was whose pair.

    Args:
        folder: what `unlearn audit` wrote.
        twins: a JSON file `{"twins": {"forget id": ["holdout id", …]}}`, no twin twice. Where it
            says `"randomised": true`, nothing shows that a coin fell before the scores were there,
            as the lineage does for an audit of canaries: they are plain twins all the same.
        references: folders of the audit's references, or of several, to look at again: they must
            be those that were measured, with lineages that name none of the records.
        canaries: the file of those that the audit measured, to be compared with it.

    Returns:
        The evidence, with facts for G0.

    Raises:
        DataError: if a file is missing or holds something else.
        LineageError: if a reference's folder holds no weights, or the lineage of others.
    """
    content, file = read_audit(folder), load_scores(folder)
    return _evidence(Path(folder), content, file, twins, references, canaries)


def evidence_of(audit: Audit) -> Evidence:
    """Return the evidence of an audit in memory: what `load_evidence` reads from its folder.

    Raises DataError if the audit has no scores to judge, or pairs of canaries that are not its own.
    """
    views: dict[View, dict[str, Mapping[str, TokenScores]]] = {View(): dict(audit.scores)}
    for state, forms in audit.treated.items():
        for deployment, splits in forms.items():
            views.setdefault(View(deployment), {})[state] = splits
    for state, asked in audit.prompted.items():
        for prompt_state, forget_scores in asked.items():
            views.setdefault(View(AS_IS, prompt_state), {})[state] = {"forget": forget_scores}
    file = ScoreFile(views, {s: audit.subjects[s] for s in audit.subjects if _has(audit, s)})
    return _evidence(Path(), json.loads(audit.as_json()), file)


def _has(audit: Audit, split: str) -> bool:
    """Say whether the audited model was scored on a split."""
    return split in audit.scores.get("after", {})


def _evidence(
    folder: Path,
    content: Mapping[str, Any],
    file: ScoreFile,
    twins: str | Path | None = None,
    references: Sequence[str | Path] = (),
    canaries: str | Path | None = None,
) -> Evidence:
    """Put evidence together from what an audit says and its scores; errors name the folder."""
    scores = file.views.get(View(), {})
    if "forget" not in scores.get("after", {}):
        raise DataError(f"{folder / SCORES}: no scores of the state 'after' to judge")
    looks = looks_of(content)
    facts = [*_facts(content, scores), *_references(content, references), *facts_of_looks(looks)]
    noted = content.get("canaries")
    paired: Twins | None
    if noted is not None:
        if twins is not None:
            raise DataError(f"{folder}: an audit of canaries has its pairs; drop --twins {twins}")
        paired = canaries_of(folder / AUDIT, noted, scores["after"])
        if canaries is not None:
            check_file(canaries, noted)
        words = "the file of canaries is the one that the adapter's lineage commits to"
        facts.append(ProvenanceFact(words, True if canaries is not None else None))
    elif canaries is not None:
        raise DataError(
            f"{folder / AUDIT}: no audit of canaries; run it again with --canaries {canaries}"
        )
    else:
        paired = None
        if twins is not None:
            paired, claimed = twins_of(Path(twins), scores["after"])
            facts += [ProvenanceFact(_COIN, None)] if claimed else []
    unmeasured = content.get("unmeasured", {})
    unproven = {**_unproven(content), **_unproven_now(content, references)}
    return Evidence(
        file.views,
        file.subjects,
        paired,
        facts,
        unmeasured,
        _partial(content),
        unproven,
        looks,
        _recipe(content),
        None if noted is None else _claim(folder / AUDIT, noted.get("privacy")),
    )


def _claim(path: Path, noted: Any) -> PrivacyClaim | None:
    """Read the differential privacy that the audited model claims."""
    if noted is None:
        return None
    try:
        fit(noted, CLAIM, "canaries.privacy")
    except MisfitError as error:
        raise DataError(f"{path}: {error}; run the audit again") from None
    return PrivacyClaim(noted["epsilon"], noted["delta"], noted["unit"])


def _facts(content: Mapping[str, Any], scores: Scores) -> Iterator[ProvenanceFact]:
    """Yield what the files say about whether they belong together."""
    states: dict[str, str] = content["states"]
    yield ProvenanceFact(
        "audit.json and scores.parquet hold the same states", set(states) == set(scores)
    )
    means = {
        (row["state"], row["split"]): row["value"]
        for row in content["rows"]
        if (row["probe"], row["metric"]) == ("utility.loss", "mean")
        and (row["deployment"], row["prompt_state"]) == (AS_IS, VERBATIM)
    }
    recomputed = {
        (s, k): float(np.mean(loss.score(m))) for s, v in scores.items() for k, m in v.items()
    }
    same = set(means) == set(recomputed) and all(
        value is None or np.isclose(recomputed[key], value, rtol=1e-9, atol=1e-12)
        for key, value in means.items()
    )
    yield ProvenanceFact("the losses in audit.json are those of scores.parquet", same)
    references = [digest for state, digest in states.items() if state.startswith("reference:")]
    if references:
        others = {states[s] for s in ("after", "before") if s in states}
        distinct = len(set(references)) == len(references) and not others & set(references)
        yield ProvenanceFact(
            "the references differ from each other and from the audited model", distinct
        )


def _references(
    content: Mapping[str, Any], folders: Sequence[str | Path]
) -> Iterator[ProvenanceFact]:
    """Yield whether the references never saw the records: by the audit, and by folders at hand."""
    states = {s: d for s, d in content["states"].items() if s.startswith("reference:")}
    facts = content.get("references") or {}
    if not isinstance(facts, dict) or not all(isinstance(each, dict) for each in facts.values()):
        raise DataError("audit.json: references: no facts of references; run the audit again")
    try:
        fit(facts, Each(REFERENCE_FACTS), "references")
    except MisfitError as error:
        raise DataError(f"audit.json: {error}; run the audit again") from None
    if states:
        same = all(facts[s].get("weights") == d for s, d in states.items() if s in facts)
        if facts:
            yield ProvenanceFact("their lineages are of the references that were measured", same)
        counts = [facts.get(state, {}).get("saw") for state in states]
        silent = counts.count(None)
        words = "the references never saw the records, by their lineages"
        if silent:
            words += f" ({silent} of {len(states)} have none that says so)"
        yield ProvenanceFact(words, False if any(counts) else None if silent else True)
        seeds = [facts.get(state, {}).get("seed") for state in states]
        told = [seed for seed in seeds if seed is not None]
        if told:
            different = len(set(told)) == len(told)
            yield ProvenanceFact("the references were trained from different seeds", different)
        open_ = [facts.get(state, {}).get(what) for state in states for what in _LIKENESS]
        if None in open_:
            words = (
                "the references were trained as the audited model was, and on none but its records"
            )
            yield ProvenanceFact(words, None)
    if folders:
        named = content.get("records") or {}
        folder_facts = [trained_on(f, str(named.get("key_id"))) for f in folders_in(folders)]
        known = {each.weights for each in folder_facts}
        words = (
            f"the references at hand ({len(known)} of {len(states)}) are ones that were measured"
        )
        yield ProvenanceFact(words, known <= set(states.values()))
        overlaps = [each.saw(named.get("forget", ())) for each in folder_facts]
        words = "by lineages read again, the references at hand never saw the records"
        yield ProvenanceFact(words, False if any(overlaps) else None if None in overlaps else True)


def _unproven(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the references whose lineage does not show that they are what they stand for, and why.

    Facts that an audit of an earlier version did not keep are missing like those of no lineage.
    """
    facts = content.get("references") or {}
    reasons = {}
    for state in content["states"]:
        if not state.startswith("reference:"):
            continue
        each = facts.get(state, {})
        if each.get("saw") is None:
            reasons[state] = _SILENT
        elif each.get("from_base") is None:
            reasons[state] = "with a lineage of which the audit does not say what base it names"
        elif why := unfit(each["from_base"], each.get("surplus"), each.get("otherwise")):
            reasons[state] = why
    return reasons


def _unproven_now(content: Mapping[str, Any], folders: Sequence[str | Path]) -> dict[str, str]:
    """Return the same of references at hand, whose lineages are read again."""
    key = str((content.get("records") or {}).get("key_id"))
    states = {digest: state for state, digest in content["states"].items()}
    reasons = {}
    for each in (trained_on(folder, key) for folder in folders_in(folders)):
        state = states.get(each.weights)
        why = _SILENT if each.records is None else unfit(each.parent is None, None, None)
        if state is not None and why:
            reasons[state] = why
    return reasons


def _recipe(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how all references were trained otherwise than an audited model that is exact."""
    facts = content.get("references") or {}
    unlike = [each.get("unlike") for each in facts.values()]
    if not unlike or not all(unlike):
        return ()
    return tuple(dict.fromkeys(str(name) for names in unlike for name in names))


def _partial(content: Mapping[str, Any]) -> frozenset[str]:
    """Return the references that saw fewer of the kept records than the audited model did."""
    total = (content.get("records") or {}).get("kept", 0)
    facts = content.get("references") or {}
    counts = {state: each.get("kept") for state, each in facts.items()}
    return frozenset(state for state, n in counts.items() if n is not None and n < total)
