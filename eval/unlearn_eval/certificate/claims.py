"""What a certificate does not claim: always some things, and more as its content asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlearn_eval.certificate.looks import not_claimed_of_tries
from unlearn_eval.certificate.remains import not_claimed_of_remains

__all__ = ["not_claimed_by", "not_claimed_of_canaries"]

_ALWAYS = (
    "That the signer is honest. The signature shows who made this statement and that it was not "
    "changed since; whoever controls data, models and signing key could state anything, and write "
    "any lineage.",
    "That no other attack, known or found later, would tell. The tests listed here were made.",
    "Anything about copies that are not listed under scope: backups, exports, models derived "
    "elsewhere.",
    "That the base model, trained by others before, never saw the same content.",
    "That the law is satisfied. These are measurements with stated limits of error.",
)


def not_claimed_by(statement: Mapping[str, Any]) -> list[str]:
    """Return the limits of a statement in plain sentences.

    Args:
        statement: of the shape `STATEMENT`, but for `not_claimed`.

    Returns:
        Sentences, those particular to this statement first.
    """
    limits = []
    outcome = statement["verdict"]["outcome"]
    if outcome != "PASS":
        limits.append(f"That the records are gone: the outcome is {outcome}.")
    limits += not_claimed_of_remains(statement["remains"])
    if statement["policy"]["chosen"] == "after":
        limits.append(
            "That the rules were fixed in advance: the policy was chosen after the audit, when its "
            "numbers could be seen."
        )
    if statement["audit"] is not None:
        alpha = statement["policy"]["content"].get("alpha")
        limits += not_claimed_of_tries(statement["looks"], alpha)
    if statement["verdict"]["tier"] == "A":
        limits += _margin(statement["policy"]["content"])
    if statement["replay"] is not None:
        limits += _not_claimed_of_replay(statement["replay"])
    references = statement["references"]
    silent = sum(each["saw"] is None for each in references)
    if silent:
        limits.append(
            f"That the references never saw the records: {silent} of {len(references)} have no "
            "lineage that says so."
        )
    scope = statement["scope"]
    uncleaned = [entry for entry in scope if entry["cleaned"] is not True]
    if uncleaned:
        limits.append(
            f"That everything is clean: of what is listed under scope ({len(scope)}), "
            f"{len(uncleaned)} {'is' if len(uncleaned) == 1 else 'are'} not, or not known to be."
        )
    if not scope:
        limits.append("That other copies were looked for: no scope was given.")
    if statement["models"]["after"]["files"] is None:
        limits.append(
            "Anything about the adapter's configuration, such as its scale: only the weights are "
            "identified here."
        )
    if statement["models"]["base"]["files"] is None:
        limits.append(
            "Anything about how the base reads and writes text, its tokenizer and chat template: "
            "of the base only the weights are identified here."
        )
    if statement["method"]["name"] != "retrain":
        limits.append(
            "That the weights are those of a model never trained on the records: "
            f"{statement['method']['name']} approximates that, and only its behaviour was tested."
        )
    request = statement["request"]
    if request and request["escrow_destroyed"]:
        limits.append(
            "That this can be measured again: the copy of the records kept for checking was "
            "destroyed when the request was closed."
        )
    return [*limits, *_ALWAYS]


def _margin(policy: Mapping[str, Any]) -> list[str]:
    """Say what a policy takes for no difference, in what it means to an attacker."""
    margin, floor = policy.get("margin"), policy.get("floor")
    if not isinstance(margin, (int, float)):
        return []
    words = f"That nothing is left: up to {margin:g} standard deviations from models that never "
    words += "saw the records count as none"
    if isinstance(floor, (int, float)) and floor > 0:
        words += (
            ", and so does, where that is more, what lets an attacker who sees how the model "
            f"reacts to one record win at most {50 + 100 * floor:g} of 100 games in which guessing "
            "wins 50"
        )
    return [f"{words}."]


def _not_claimed_of_replay(replay: Mapping[str, Any]) -> list[str]:
    """Say what training again did not look at, and how closely it came out."""
    about = "Anything about what training again did not look at: "
    limits = [about + each[:1].lower() + each[1:] for each in replay["not_looked_at"]]
    if replay["kind"] == "up to rounding":
        limits.append(
            "That training again gave the same weights bit by bit: they agree up to rounding, on "
            "another machine or with other versions."
        )
    return limits


def not_claimed_of_canaries(canaries: Mapping[str, Any], measured: int) -> list[str]:
    """Return what a statement about canaries does not say of records.

    Args:
        canaries: `sha256` of their file and pairs `planted`.
        measured: pairs that the audit measured.

    Returns:
        One sentence.
    """
    return [
        f"That the records themselves were measured: {measured} of {canaries['planted']} planted "
        "canaries stood for them, made-up records that the same training included by a coin. The "
        f"SHA-256 of their file, to which the lineage commits, is {canaries['sha256']}. Records "
        "that the model learned in another way may have been forgotten in another way."
    ]
