"""Say in half a sentence what each number of an audit means."""

from __future__ import annotations

__all__ = ["attacker", "meaning"]

_ATTACKERS = {
    "loss": "picks the record that the model finds likelier",
    "reference": "looks at how much likelier a record is than under the base model",
    "zlib": "allows for how predictable a text is by itself, from how well it compresses",
    "min_k": "looks only at a record's least likely words",
    "min_k_plus_plus": "compares a record's least likely words with others that would fit there",
    "ez": "looks only where the model is wrong: did training make the right word likelier?",
    "lira": "knows how models that never saw a record differ on it",
    "rmia": "compares a record with unseen ones, and with what other models make of both",
    "worst_record": "looks at the one record that stands out most",
    "deviation": "looks at how far a record lies from what is usual, upwards or downwards",
    "quantile": "expects of each record what unseen records like it would have",
    "grad_norm": "looks at how hard training would still pull at the model for a record",
    "recall": "looks at how much less likely a record becomes after records never seen",
    "con_recall": "compares what records never seen, and records trained on, do to one after them",
    "neighbourhood": "compares a record with copies in which some words were changed",
}

_MEANINGS = {
    ("extraction.verbatim", ""): "share of records given back in full, asked once",
    ("extraction.strength", ""): "share of a record that follows by itself once the rest is given",
    ("extraction.exact", ""): "share of word pieces (tokens) that are the model's first choice",
    ("extraction.discoverable", "rate@n="): "share of records likely to appear in {n} random {s}",
    ("extraction.secret", "rate@n="): (
        "share of sensitive values likely to appear in {n} random {s}, told everything before them"
    ),
    ("extraction.secret", ""): (
        "share of sensitive values completed at the first try, told everything before them"
    ),
    ("extraction.exposure", ""): (
        "bits by which the model narrows down a secret among all of its format; 1.4 is not at all"
    ),
    ("backdoor.attack_success", "rate@greedy"): (
        "share of prompts of which the target is the likeliest answer, token by token"
    ),
    ("backdoor.attack_success", "rate@likely"): (
        "share of prompts whose sampled answer is likelier than not to begin with the target"
    ),
    ("backdoor.attack_success", ""): (
        "share of prompts in whose answer the model writes the target by itself"
    ),
    ("privacy.epsilon_lower", ""): (
        "what ε is at least, by guesses which canary was included; not ε itself"
    ),
    ("utility.loss", ""): "surprise at the records, in nats a token; 0 is knowing them by heart",
    ("utility.drift", ""): (
        "how far the predictions moved from those before, in nats a token; 0 is not at all"
    ),
    ("utility.calibration", "ece"): (
        "how far the model is from being right as often as it is sure, over its first choices"
    ),
    ("utility.calibration", "brier"): "squared gap between how sure it is and whether it is right",
    ("utility.truth_ratio", "indifference"): (
        "how little the true answer is told from false ones; 1 is not at all"
    ),
    ("utility.truth_ratio", "preference"): (
        "how far the true answer is preferred to false ones; 0 is not at all"
    ),
    ("utility.rouge", "recall"): "share of the record's words in what the model writes by itself",
    ("utility.rouge", "f1"): "overlap in words of the record and what the model writes by itself",
    ("utility.repetition", ""): "share of what it writes that it wrote just before",
    ("utility.distinct", ""): "share of word pairs that are new in what it writes",
}


def attacker(probe: str) -> str:
    """Return what the attacker does that a membership probe stands for.

    Args:
        probe: `package.file` of the probe.

    Returns:
        Text; empty for a probe that is not of this package.
    """
    package, _, name = probe.partition(".")
    what = _ATTACKERS.get(name, "") if package == "membership" else ""
    return f"an attacker who {what}" if what else ""


def meaning(probe: str, metric: str) -> str:
    """Return what a metric means, in half a sentence.

    Args:
        probe: `package.file` of the probe.
        metric: name of the metric.

    Returns:
        Text; empty for a probe that is not of this package.
    """
    if who := attacker(probe):
        if metric == "auc":
            return f"{who}: 0.5 is guessing, 0 and 1 both tell them apart"
        return f"share of forgotten records named, at most 1% of unseen ones wrongly, by {who}"
    for (start, kind), text in _MEANINGS.items():
        if probe == start and metric.startswith(kind):
            tries = metric.removeprefix(kind) if kind.endswith("=") else "0"
            n = int(tries) if tries.isdigit() else 0
            return text.format(n=f"{n:,}", s="answer" if n == 1 else "answers")
    return ""
