"""The page of a certificate: what was deleted, how that was checked, and what it is worth.

Written for readers who know the law rather than statistics, and to be printed on two pages.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from unlearn.errors import CertificateError
from unlearn_eval.certificate.envelope import UnverifiedError, unsigned_payload
from unlearn_eval.certificate.looks import tries
from unlearn_eval.certificate.policies import origin
from unlearn_eval.certificate.schema import STATEMENT
from unlearn_eval.certificate.shape import MisfitError, fit
from unlearn_eval.report.meanings import attacker
from unlearn_eval.report.page import render
from unlearn_eval.verdict.tone import Tone, tone_of

__all__ = ["certificate_page"]

_COMMAND = (
    "python -m unlearn_eval.certificate check certificate.json --key signing.pub --adapter DIR"
)
_SHOWN_DIGESTS = 3

_VERDICTS = {
    "PASS": (
        "PASS",
        "In every test that the policy asks for, and within its margin, the cleaned model treats "
        "the deleted records as a model does that never saw them.",
    ),
    "FAIL": (
        "FAIL",
        "The deletion does not meet the policy. Under reasons stands what was found.",
    ),
    "INCONCLUSIVE": (
        "NOT DECIDED",
        "These measurements can neither confirm that the records are gone nor show that they are "
        "not.",
    ),
}
_REPLAYED = {
    "exact": "Training again from the base, without the deleted records, gave the same weights, "
    "bit by bit: the cleaned model never saw them.",
    "up to rounding": "Training again from the base, without the deleted records, gave the same "
    "weights up to rounding: what is left of a difference is at most a hundredth of what chance "
    "makes between two trainings.",
}
_COMPARED = {
    "A": "Compared with {k}trained in the same way without the records.",
    "B": "Compared with chance: before the training, coin flips decided which record of each of "
    "many prepared pairs was put in.",
    "C": "Compared with records of the same source that the model was never trained on.",
    "E": "Trained again from the base without the records, and compared weight by weight.",
    None: "Nothing could stand for models that never saw the records.",
}
_KINDS = {
    "dataset": "data for training",
    "adapter": "adapter (trained addition to a base model)",
    "checkpoint": "checkpoint (copy saved during training)",
    "optimizer": "optimizer state (memory of the training)",
    "merge": "base and adapter merged",
    "quantized": "rounded copy for serving",
    "cache": "numbers kept from earlier measurements",
    "raw": "file with the records themselves",
}
_DATES = {
    "received": "received",
    "due": "due",
    "run": "carried out",
    "verified": "checked",
    "closed": "closed",
}
_CONTROLS = {
    True: ("good", "holds"),
    False: ("bad", "does not hold"),
    None: ("", "not applicable"),
}
_RESULTS = {"PASS": "passes", "FAIL": "fails"}


def certificate_page(certificate: Mapping[str, Any]) -> str:
    """Return a certificate as a page in one file, without connections.

    The page shows what the certificate states and carries the signed file along; it does not check
    the signature, and says how its reader can.

    Args:
        certificate: an envelope from `sign`, or a statement that is not signed yet.

    Returns:
        HTML.

    Raises:
        CertificateError: if it is neither.
    """
    signed = "payload" in certificate
    try:
        content = unsigned_payload(certificate) if signed else certificate
        statement = fit(content, STATEMENT, "statement", exact=True)
    except (MisfitError, UnverifiedError) as error:
        raise CertificateError(f"cannot show this certificate: {error}") from None
    verdict, counts = statement["verdict"], statement["counts"]
    short, text = _VERDICTS[verdict["outcome"]]
    if (verdict["outcome"], verdict["tier"]) == ("PASS", "E"):
        text = _REPLAYED[statement["replay"]["kind"]]
    k = counts["references"]
    compared = _COMPARED[verdict["tier"]].format(k=f"{_count(k, 'model')} " if k else "models ")
    return render(
        "certificate.html",
        title="Certificate of deletion" if short == "PASS" else "A deletion that is not confirmed",
        facts=_facts(statement),
        tone=tone_of(verdict["outcome"]),
        warnings=_warnings(statement, signed=signed),
        verdict={"short": short, "text": text, "compared": compared},
        reasons=verdict["reasons"],
        would_decide=verdict["would_decide"],
        sides=[("What was deleted", _deleted(statement)), ("How it was checked", _how(statement))],
        lines=_lines(statement),
        power=statement["power"],
        controls=[
            dict(zip(("tone", "result"), _CONTROLS[gate["passed"]], strict=True))
            | {"name": gate["gate"], "words": gate["words"]}
            for gate in statement["controls"]
        ],
        scope=[_artifact(entry) for entry in statement["scope"]],
        not_claimed=statement["not_claimed"],
        signature=_signature(certificate) if signed else None,
        command=_COMMAND,
        expires=statement["expires"][:10],
    )


def _facts(statement: Mapping[str, Any]) -> list[str]:
    facts = [_count(statement["counts"]["forget"], "record")]
    if request := statement["request"]:
        facts.insert(0, f"request {request['id']}")
    return [
        *facts,
        f"made on {statement['created'][:10]}",
        f"valid until {statement['expires'][:10]}",
    ]


def _warnings(statement: Mapping[str, Any], *, signed: bool) -> list[str]:
    """Say beside the verdict what it must not be read without."""
    scope = statement["scope"]
    uncleaned = sum(entry["cleaned"] is not True for entry in scope)
    warnings = []
    if uncleaned:
        warnings.append(
            f"This is about one {_what(statement)}. Of what is listed under scope ({len(scope)}), "
            f"{uncleaned} {'is' if uncleaned == 1 else 'are'} not cleaned, or not known to be."
        )
    if statement["policy"]["chosen"] == "after":
        warnings.append("The rules were chosen when the numbers could be seen.")
    if not signed:
        warnings.append("This is a draft: nobody has signed it.")
    return warnings


def _what(statement: Mapping[str, Any]) -> str:
    return "adapter" if statement["models"]["after"]["kind"] == "adapter" else "model"


def _deleted(statement: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts, models, method = statement["counts"], statement["models"], statement["method"]
    digests = statement["records"]["digests"]
    people = counts["subjects"]
    what = _count(counts["forget"], "record")
    if people:
        what += f", about {'one person or subject' if people == 1 else f'{people:,} subjects'}"
    more = len(digests) - _SHOWN_DIGESTS
    made_with = f"made with the secret key {statement['records']['key_id']}"
    facts = [
        _entry("records", what),
        _entry(
            "their digests",
            digests=digests[:_SHOWN_DIGESTS],
            note=f"and {more:,} more; {made_with}" if more > 0 else made_with,
        ),
    ]
    request = statement["request"]
    dates = [
        f"{words} {request[key][:10]}" for key, words in _DATES.items() if request and request[key]
    ]
    if dates:
        facts.append(_entry("request", ", ".join(dates)))
    kind = _what(statement)
    if models["before"]:
        facts.append(_entry(f"{kind} before", digests=[models["before"]["weights"]]))
    note = "" if models["after"]["files"] else "weights only, without the configuration"
    facts.append(_entry(f"{kind} after", digests=[models["after"]["weights"]], note=note))
    if kind == "adapter":
        base = models["base"]
        facts.append(_entry("base model", base["name"], [base["weights"]]))
    version = method["versions"].get("unlearn")
    how = f"{method['name']}, seed {method['seed']}, on {method['run'][:10]}"
    exact = method["name"] == "retrain"
    note = (
        "trained again without the records"
        if exact
        else "changes the model; approximates retraining"
    )
    facts.append(_entry("method", how, note=note + (f"; unlearn {version}" if version else "")))
    return facts


def _how(statement: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts, policy, audit = statement["counts"], statement["policy"], statement["audit"]
    facts = []
    if counts["references"]:
        text = f"{_count(counts['references'], 'model')} trained without the records"
        silent = sum(each["saw"] is None for each in statement["references"])
        note = f"{silent} without a lineage that says so" if silent else "by their lineages"
        facts.append(_entry("compared with", text, note=note))
    if counts["holdout"]:
        text = f"{_count(counts['holdout'], 'record')} that no model was trained on"
        facts.append(_entry("unseen records", text))
    if statement["looks"]:
        facts.append(_entry("tries", tries(statement["looks"])))
    when = {
        "before": "fixed before the measurements were made",
        "after": "chosen after the measurements: the numbers could be seen",
    }
    facts += [
        _entry(
            "policy",
            policy["name"],
            [policy["sha256"]],
            f"{when[policy['chosen']]}; {origin(policy)}",
        ),
        *_rests_on(audit, statement["replay"]),
        _entry("decided", f"on {statement['verdict']['decided'][:10]}"),
    ]
    return facts


def _rests_on(
    audit: Mapping[str, Any] | None, replay: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Name the files that a verdict rests on, and what can be repeated with which of them."""
    facts = []
    if audit is not None:
        facts.append(_entry("measurements", f"made on {audit['created'][:10]}", [audit["sha256"]]))
    if replay is not None:
        found = {"exact": "gave the same weights", "up to rounding": "the same up to rounding"}
        text = (
            f"on {replay['created'][:10]}: {found.get(replay['kind'], 'shows nothing by itself')}"
        )
        note = (
            "whoever has the adapter with this lineage.json, the base, the kept records and the "
            "key of the digests can repeat it: unlearn replay ADAPTER --data FILE --model BASE"
        )
        digests = [replay["lineage"], replay["sha256"]]
        facts.append(_entry("trained again", text, digests, note))
    return facts


def _entry(
    name: str, text: str = "", digests: Sequence[str] = (), note: str = ""
) -> dict[str, Any]:
    return {"name": name, "text": text, "digests": digests, "note": note}


def _lines(statement: Mapping[str, Any]) -> list[dict[str, str]]:
    """Lay out every test: probes, extraction, what became of the rest.

    Forms of the model that differ by rounding give nearly one result: of each probe the one that
    does worst is shown, and the signed file holds all.
    """
    probes = [_probe(*nearest) for nearest in _nearest(statement["probes"])]
    if extraction := statement["extraction"]:
        of = extraction["records"]
        tone, result = _judged(extraction["outcome"])
        probes.append(
            {
                "words": "Do the records come out?",
                "found": extraction["words"],
                "name": f"extraction, {extraction['n']:,} tries, p = {extraction['p']:g}",
                "value": _of(extraction["extracted"], of),
                "span": "records that come out" if extraction["extracted"] is not None else "",
                "others": _of(extraction["reference_extracted"], of),
                "of": "",
                "tone": tone,
                "result": result,
            }
        )
    if utility := statement["utility"]:
        tone, result = _judged(utility["outcome"])
        margin = utility["margin"]
        probes.append(
            {
                "words": "Does the model still know the rest?",
                "found": utility["words"],
                "name": "utility",
                "value": _number(utility["value"]),
                "span": _span(utility["low"], utility["high"]),
                "others": "–" if margin is None else f"margin {_number(margin)}",
                "of": "",
                "tone": tone,
                "result": result,
            }
        )
    if exposure := statement["exposure"]:
        tone, result = _judged(exposure["outcome"])
        probes.append(
            {
                "words": "Do other people's records come out more?",
                "found": exposure["words"],
                "name": "exposure of the kept records",
                "value": _of(exposure["extracted"], exposure["records"]),
                "span": "kept records that come out",
                "others": _of(exposure["reference_extracted"], exposure["records"]),
                "of": "",
                "tone": tone,
                "result": result,
            }
        )
    return probes


def _judged(outcome: str) -> tuple[Tone, str]:
    """Return the tone of a part's outcome, and the outcome in words."""
    return tone_of(outcome), _RESULTS.get(outcome, "not decided")


def _nearest(probes: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int]]:
    """Return of each probe the form that does worst, and how many forms there are."""
    by_probe: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for probe in probes:
        key = (probe["probe"], probe["statistic"], probe["prompt_state"])
        by_probe.setdefault(key, []).append(probe)

    def badness(probe: Mapping[str, Any]) -> tuple[bool, bool, float]:
        value, mean, sd = (probe[key] for key in ("value", "reference_mean", "reference_sd"))
        known = None not in (value, mean) and sd
        distance = abs(value - mean) / sd if known else 0.0
        return bool(probe["failed"]), not probe["passed"], distance

    return [(max(forms, key=badness), len(forms)) for forms in by_probe.values()]


def _probe(probe: Mapping[str, Any], forms: int) -> dict[str, str]:
    mean, spread, k = probe["reference_mean"], probe["reference_sd"], probe["k"]
    others = _number(mean) if spread is None else f"{_number(mean)} ± {_number(spread)}"
    outcome = "FAIL" if probe["failed"] else "PASS" if probe["passed"] else ""
    tone, result = _judged(outcome)
    # with references a verdict gives the range that passes, otherwise the value's own interval
    span = _span(probe["low"], probe["high"])
    compared = bool(k) and mean is not None
    of = _count(k, "model") if compared else ""
    name = f"{probe['probe']}, {probe['statistic']}"
    if forms > 1:
        name += f"; of {forms} forms of the model the worst: {probe['deployment']}"
    elif probe["deployment"] != "as-is":
        name += f"; model: {probe['deployment']}"
    if probe["prompt_state"] != "verbatim":
        name += f"; asked: {probe['prompt_state']}"
    words = probe["words"].removeprefix(f"{probe['probe']}: ")
    who = attacker(probe["probe"])
    return {
        "words": who[:1].upper() + who[1:] if who else words,
        # beside references the columns say the same in numbers
        "found": words if who and not compared else "",
        "name": name,
        "value": _number(probe["value"]),
        "span": "" if compared else span,
        "others": others,
        "of": f"{of}; passes: {span}" if compared and span else of,
        "tone": tone,
        "result": result,
    }


def _artifact(entry: Mapping[str, Any]) -> dict[str, Any]:
    tone, cleaned = {True: ("good", "yes"), False: ("bad", "no"), None: ("open", "not known")}[
        entry["cleaned"]
    ]
    return {**entry, "kind": _KINDS[entry["kind"]], "tone": tone, "cleaned": cleaned}


def _signature(envelope: Mapping[str, Any]) -> dict[str, str]:
    entries = envelope.get("signatures")
    first = entries[0] if isinstance(entries, list) and entries else {}
    name = first.get("keyid", "") if isinstance(first, Mapping) else ""
    file = json.dumps(envelope, indent=1) + "\n"
    return {"keyid": str(name), "file": base64.b64encode(file.encode()).decode()}


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _of(n: int | None, total: int | None) -> str:
    if n is None:
        return "–"
    return f"{n:,}" if total is None else f"{n:,} of {total:,}"


def _number(value: float | None) -> str:
    """Write a number with two decimals, or two digits where those would say 0."""
    if value is None:
        return "–"
    text = f"{value:.2f}" if not value or abs(value) >= 0.01 else f"{value:.1g}"
    return text.replace("-", "−") if value < 0 else text


def _span(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if low is None:
        return f"at most {_number(high)}"
    if high is None:
        return f"at least {_number(low)}"
    return f"{_number(low)} to {_number(high)}"
