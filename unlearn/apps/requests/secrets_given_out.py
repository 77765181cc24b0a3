"""Does the model complete a secret of the records, whatever the records that are kept hold?

A verdict compares with models that never saw the records, and a replay trains one. Where a kept
record holds the same value, these give it out as well, and the verdict is a PASS: of the person it
says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn.apps.requests.secrets_in_text import secrets_elsewhere
from unlearn.data.records import Records
from unlearn.provenance.keys import Key

if TYPE_CHECKING:
    from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["ask_model", "secrets_given_out"]

Ask = Callable[[Records], Iterable["TokenScores"]]


def secrets_given_out(
    audits: Sequence[Path],
    forget_records: Records,
    retain_records: Records,
    key: Key,
    ask: Ask,
) -> dict[str, int | None]:
    """Count the records whose secret comes out, and the kept records that hold the same value.

    A secret comes out if greedy decoding completes it, in any form of the model and of the question
    that an audit asked; see `unlearn_eval.extraction.secret`. Where no audit asked, as in a replay
    or where canaries alone were measured, the model is asked the questions of the records as they
    are: one forward pass over those that have a secret.

    Args:
        audits: folders of the audits that were made, if any; one without `scores.parquet` asked
            nothing.
        forget_records: of the request.
        retain_records: those that the model keeps.
        key: under which audits name records.
        ask: scores records under the model, or under all that it may answer with.

    Returns:
        `records` with a secret; how many `come_out`, None where it lies in no answer that the model
        can be asked for; and `kept_records` that hold a secret of these (of those that come out,
        where that is known).
    """
    marked = forget_records.take([i for i, r in enumerate(forget_records) if r.secrets])
    out = _come_out(audits, marked, key, ask) if len(marked) else set()
    shown = [r for r in marked if out is None or r.id in out]
    return {
        "records": len(marked),
        "come_out": None if out is None else len(out),
        "kept_records": len({each.id for each in secrets_elsewhere(shown, retain_records)}),
    }


def _come_out(audits: Iterable[Path], marked: Records, key: Key, ask: Ask) -> set[str] | None:
    """Return the ids of the records of which the model completes a secret; None if never asked."""
    for audit in audits:
        found = _by_audit(audit / "scores.parquet", marked.ids, key)
        if found is not None:
            return found
    asked = [_completed(scores, marked.ids) for scores in ask(marked)]
    known = [names for names in asked if names is not None]
    return set().union(*known) if known else None


def _by_audit(file: Path, ids: Sequence[str], key: Key) -> set[str] | None:
    """Return what an audit's answers complete; None if it asked for none of the records."""
    from unlearn_eval.results.record_names import names_in
    from unlearn_eval.results.scores_file import read_scores

    if not file.is_file():
        return None
    out: set[str] = set()
    asked = False
    for place, stored in read_scores(file).items():
        if (place.state, place.split) != ("after", "forget"):
            continue
        names = names_in(stored.scores.ids, ids, key)
        found = _completed(stored.scores, names.values())
        asked = asked or found is not None
        out |= {name for name in ids if names[name] in (found or ())}
    return out if asked else None


def _completed(scores: TokenScores, names: Collection[str]) -> set[str] | None:
    """Return the named records of which a secret is completed; None if none is asked for one."""
    if scores.secret is None:
        return None
    wanted = set(names)
    spans = {
        name: scores.spans(position) for position, name in enumerate(scores.ids) if name in wanted
    }
    if not any(spans.values()):
        return None
    return {name for name, mine in spans.items() if any(bool(np.all(scores.hit[s])) for s in mine)}


def ask_model(
    records: Records, model: Any, adapter: Any, template: str | None, **opening: Any
) -> TokenScores:
    """Score records under a model as it is, asked as its lineage says.

    Args:
        records: what it is asked.
        model: the base, or the whole model.
        adapter: adapters on it, if any.
        template: how records become text; None for what the lineage names.
        **opening: `dtype`, `device` and so on, see `Opening`.

    Returns:
        What it says of each token.

    Raises:
        UnlearnError: if the model cannot be opened, or a record cannot be encoded.
    """
    from unlearn.data.templates import choose_template
    from unlearn.data.tokenization import encode
    from unlearn.model.opening import Opening
    from unlearn.provenance.lineage import Lineage
    from unlearn_eval.scores.model_scores import score_model

    state = Opening(**opening).open(model, adapter)
    lineage = Lineage.read(state.adapter or state.folder)
    name = template or (lineage.template if lineage else None)
    chosen = choose_template(name, state.tokenizer, records)
    examples = encode(records, state.tokenizer, chosen, state.max_length)
    return score_model(state.model, state.head, examples)
