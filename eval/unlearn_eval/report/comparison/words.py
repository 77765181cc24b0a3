"""Say what a comparison found, and which method to use when; every word follows from numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from unlearn_eval.comparison.contests import Contest
from unlearn_eval.comparison.details import About
from unlearn_eval.comparison.lines import DAMAGE, TableLine
from unlearn_eval.comparison.measures import MEASURES
from unlearn_eval.comparison.outcomes import Comparison, Tuned
from unlearn_eval.report.formats import percent
from unlearn_eval.verdict.tone import Tone, least

__all__ = [
    "about_contest",
    "about_tuning",
    "advice",
    "headline",
    "stop_rules",
    "tone_of_headline",
]

_ALPHA = 0.05
_LISTED = 8
_FEW = (
    11  # cells, from which Friedman's approximation holds by Demšar's rule of thumb (JMLR 7, 2006)
)

_MOVED = 0.9
"""A method has moved towards the references if its distance is at most so much of what it was."""


def headline(comparison: Comparison, lines: Sequence[TableLine]) -> str:
    """Say in a sentence or two how close the methods come to retraining."""
    if not _candidates(lines):
        return "No method but retraining is in this comparison." if comparison.exact else ""
    methods = _measured(lines)
    if not methods:
        return "No method could be measured in every cell."
    some = _some(lines)
    reach = comparison.reach("gap")
    sound = sorted((x for x in methods if not x.damaged), key=lambda x: x.mean["gap"])
    if not sound:
        return f"Every method{some} damaged the model: {_damage(comparison)}."
    best = sound[0]
    if not _moved(best, lines):
        return (
            f"No approximate method{some} came nearer to models that never saw the records without "
            "damaging the rest: the least distance of an attacker's AUC from theirs is "
            f"{_value(best, 'gap')} ({best.name}), and was {_number('gap', _before(lines))} before."
        )
    text = (
        f"{best.name} comes closest{f', of the methods{some},' if some else ''} to models that "
        "never saw the records without damaging the rest: an attacker's AUC is "
        f"{_value(best, 'gap')} from theirs"
    )
    if reach is not None:
        inside = best.mean["gap"] <= reach
        text += (
            f", which is within the {_number('gap', reach)} of the farthest of them from the others"
            if inside
            else f", where the farthest of them is {_number('gap', reach)} from the others"
        )
    if "wall_share" in best.mean:
        text += f"; it takes {_share(best)} of the time of retraining"
    if best.exposing:
        text += ". It exposes others: more of the records to keep comes out than references explain"
    if best.verdicts:
        text += f". Verdicts on it under the policy {comparison.policy}: {_ruled(best.verdicts)}"
    return text + "."


def advice(comparison: Comparison, lines: Sequence[TableLine]) -> list[str]:
    """Say which method to use when.

    Args:
        comparison: the comparison.
        lines: its lines.

    Returns:
        Sentences, none that no number stands behind.
    """
    methods = [line for line in lines if line.kind == "after" and line.cells]
    measured, some = _measured(lines), _some(lines)
    sound = [line for line in measured if not line.damaged and _moved(line, lines)]
    sentences = _certain(comparison, sound)
    if measured:
        sentences += [*_closest(sound, some), *_cheapest(comparison, sound, some)]
    sentences += _verdicts(comparison, methods)
    sentences += _gentlest(sound)
    idle = [line.name for line in measured if not line.damaged and not _moved(line, lines)]
    if idle:
        sentences.append(
            f"Hardly nearer to the references than before ({_number('gap', _before(lines))}): "
            f"{_names(idle)}."
        )
    harmed = [line.name for line in measured if line.damaged]
    if harmed:
        sentences.append(
            f"Not as they were set here: {_names(harmed)}. They damaged the model: "
            f"{_damage(comparison)}."
        )
    exposing = [line.name for line in measured if line.exposing]
    if exposing:
        sentences.append(
            f"Others are exposed after {_names(exposing)}: the records to keep come out more, or "
            "are predicted better, than by models that never saw the forgotten ones."
        )
    most = comparison.reach("forget_recall") or 0.0
    leaky = [x.name for x in methods if x.mean.get("forget_recall", 0.0) > most]
    if leaky:
        sentences.append(f"Records to forget still come out word for word after {_names(leaky)}.")
    back = [x for x in sound if x.mean.get("robust", 0.0) > 2 * max(x.mean["gap"], 0.05)]
    if back:
        worst = max(back, key=lambda x: x.mean["robust"])
        sentences.append(
            f"Further changes to the model bring back what {_names([x.name for x in back])} hid: "
            f"for {worst.name} the distance grows from {_value(worst, 'gap')} to "
            f"{_value(worst, 'robust')}."
        )
    failed = [f"{x.name} ({x.failed})" for x in lines if x.failed]
    if failed:
        sentences.append(
            f"Cells that failed: {', '.join(failed)}. These methods are in the table with what is "
            "left of them, and are not ranked or recommended."
        )
    return sentences


def _damage(comparison: Comparison) -> str:
    """Say what counts as damage, by what it was judged."""
    if any("retain_loss" in o.numbers for o in comparison.references):
        return (
            f"the loss on the records to keep lies above that of retrained models by {DAMAGE:g} "
            "nats a token or more, and farther than any of those lies from their mean"
        )
    return f"the loss on the records to keep rose by more than {DAMAGE:g} nats a token"


def tone_of_headline(lines: Sequence[TableLine]) -> Tone:
    """Return the tone of the headline: that of the verdicts on the method it names, or open."""
    sound = [line for line in _measured(lines) if not line.damaged]
    if not sound:
        return "open"
    best = min(sound, key=lambda x: x.mean["gap"])
    tone = best.tone or "open"
    return least([tone, "open"]) if best.exposing or not _moved(best, lines) else tone


def _candidates(lines: Sequence[TableLine]) -> list[TableLine]:
    """Return the methods to choose from: all but retraining itself."""
    return [line for line in lines if line.kind == "after" and not line.exact]


def _measured(lines: Sequence[TableLine]) -> list[TableLine]:
    """Return those of them whose forgetting and damage are known in every cell."""
    return [x for x in _candidates(lines) if x.whole and {"gap", "rise"} <= x.mean.keys()]


def _some(lines: Sequence[TableLine]) -> str:
    """Say which methods a sentence about all of them is about, where it is not all."""
    return "" if len(_measured(lines)) == len(_candidates(lines)) else " measured in all cells"


def _before(lines: Sequence[TableLine]) -> float:
    """Return the distance of the model before; infinite where it was not measured."""
    return next((x.mean.get("gap", math.inf) for x in lines if x.kind == "before"), math.inf)


def _moved(line: TableLine, lines: Sequence[TableLine]) -> bool:
    """Say whether a method is nearer to the references than the model before."""
    return line.mean["gap"] <= _MOVED * _before(lines)


def _certain(comparison: Comparison, sound: Sequence[TableLine]) -> list[str]:
    """Retraining, and what the others would have to cost to be worth it."""
    price = comparison.price.get("wall")
    if price is None:
        return []
    dear = [x.name for x in sound if x.mean.get("wall_share", 0.0) >= 1]
    text = f"To be certain: retrain, {_seconds(price)} here; the records were never in it then."
    if dear:
        text += f" {_names(dear)} took as long or longer."
    return [text]


def _closest(sound: Sequence[TableLine], some: str) -> list[str]:
    if not sound:
        which = some or " here"
        return [f"No approximate method{which} gives less away without damaging the rest: retrain."]
    best = min(sound, key=lambda x: x.mean["gap"])
    text = (
        f"To give least away: {best.name}, {_value(best, 'gap')} from the references"
        + (
            f" ({_value(best, 'gap_sd')} of their standard deviations)"
            if "gap_sd" in best.mean
            else ""
        )
        + f", with the loss on the rest changed by {_value(best, 'rise')} nats a token"
    )
    if "wall_share" in best.mean:
        text += f" and {_share(best)} of the time of retraining"
    return [text + "."]


def _verdicts(comparison: Comparison, methods: Sequence[TableLine]) -> list[str]:
    """Say what the policy decides, and how often it errs on models that never saw the records."""
    judged = [line for line in methods if line.verdicts]
    if not judged:
        return []
    passing = [x.name for x in judged if x.verdicts.get("PASS") == x.cells + x.failed]
    failing = [x.name for x in judged if "FAIL" in x.verdicts]
    rest = [x for x in judged if x.name not in {*passing, *failing}]
    whole = [x.name for x in rest if x.verdicts.get("INCONCLUSIVE") == x.cells + x.failed]
    parts = []
    if passing:
        parts.append(f"{_names(passing)} PASS{'ES' * (len(passing) == 1)} in every cell")
    if failing:
        parts.append(f"{_names(failing)} FAIL{'S' * (len(failing) == 1)} in at least one")
    if whole:
        parts.append(f"{_names(whole)} stay{'s' * (len(whole) == 1)} INCONCLUSIVE in every cell")
    parts += [
        f"{x.name}: {_ruled(x.verdicts)} in {x.cells + x.failed} cells"
        for x in rest
        if x.name not in whole
    ]
    text = f"Verdicts under the policy {comparison.policy}: {'; '.join(parts)}."
    open_ = [o.ruling for o in comparison.outcomes if o.ruling.outcome == "INCONCLUSIVE"]
    wanted = open_[0].would_decide if open_ else ()
    shared = [words for words in wanted if all(words in r.would_decide for r in open_)]
    if shared:
        text += f" What is open would take {'; '.join(shared)}."
    theirs = Counter(o.ruling.outcome for o in comparison.references if o.ruling.outcome)
    if theirs:
        text += f" Retrained models, judged the same way: {_ruled(theirs)}."
    return [text]


def _ruled(verdicts: Mapping[str, int]) -> str:
    known = ("PASS", "FAIL", "INCONCLUSIVE")
    return ", ".join(f"{verdicts[word]} {word}" for word in known if verdicts.get(word))


def _cheapest(comparison: Comparison, sound: Sequence[TableLine], some: str) -> list[str]:
    """The cheapest method as close as references are to each other, where there is one."""
    reach = comparison.reach("gap")
    if reach is None or not sound:
        return []
    inside = [x for x in sound if x.mean["gap"] <= reach]
    if not inside:
        return [
            f"No approximate method{some} that kept the rest came as close to the references as "
            f"the farthest of them is to the others ({_number('gap', reach)}): where that matters, "
            "retrain."
        ]
    if any("wall_share" not in x.mean for x in inside):  # one without a time may be the cheapest
        return []
    best = min(inside, key=lambda x: x.mean["wall_share"])
    return [
        f"To save time: {best.name} is the cheapest of {len(inside)} within the references' own "
        f"spread ({_number('gap', reach)}), at {_share(best)} of retraining."
    ]


def _gentlest(sound: Sequence[TableLine]) -> list[str]:
    """The method that changes the rest least among those that moved towards forgetting."""
    if len(sound) < 2:
        return []
    best = min(sound, key=lambda x: x.mean["rise"])
    closest = min(sound, key=lambda x: x.mean["gap"])
    if best is closest:
        return []
    return [
        f"To keep the rest as it was: {best.name} raised its loss by {_value(best, 'rise')}, with "
        f"{_value(best, 'gap')} from the references."
    ]


def about_tuning(comparison: Comparison, tuning: Sequence[Tuned]) -> str:
    """Say which rows were tuned alike, and which were not tuned.

    Args:
        comparison: the comparison.
        tuning: how each row with a search space was tuned.

    Returns:
        A sentence or two; empty where nothing was tuned.
    """
    if not tuning:
        return ""
    tuned = {one.method for one in tuning}
    plain = [name for name in comparison.methods if name not in tuned]
    text = (
        f"{'Each method' if not plain else 'Each method with a search space'} had the same number "
        "of trials at most, as far as its search space reaches."
    )
    if plain:
        text += f" Not tuned, with the options of the recipe: {_names(plain)}."
    return text


def stop_rules(about: Sequence[About]) -> str:
    """Say what ends the runs, where that is not the same for all methods.

    Args:
        about: what the rows are, with the options in effect.

    Returns:
        A sentence; empty where all have the same rule, or nothing is known of it.
    """
    rules: dict[str, list[str]] = {}
    for one in about:
        stops = {run.options["stop"] for run in one.runs if "stop" in run.options}
        for rule in sorted(stops):
            rules.setdefault(rule, []).append(one.name)
    if len(rules) < 2:
        return ""
    common = max(rules, key=lambda rule: len(rules[rule]))
    others = [f"{rule} for {_names(who)}" for rule, who in rules.items() if rule != common]
    return f"The rule that stops a run is {common} for all methods but: {'; '.join(others)}."


def about_contest(contest: Contest, level: float = _ALPHA) -> str:
    """Say what tests and ranks show, and what so few cells cannot show.

    Args:
        contest: the contest.
        level: error that is accepted over all pairs.

    Returns:
        Text.
    """
    cells = contest.ranking.cases
    sure = [p for p in contest.pairs if p.adjusted < level]
    best = contest.methods[0]
    text = f"{cells} cell{'s' * (cells != 1)} a method, {len(contest.pairs)} pairs of methods. "
    if contest.least * len(contest.pairs) >= level:
        text += (
            f"So few cells cannot show a difference after correction: the smallest p is "
            f"{contest.least:.2g} before it. "
        )
    elif sure:
        ahead = [p.second for p in sure if p.first == best and p.mean < 0]
        text += f"{len(sure)} pairs differ after correction"
        text += f"; {best} is ahead of {_names(ahead)}. " if ahead else ". "
    else:
        text += "No pair differs after correction. "
    gap = contest.ranking.difference
    text += f"By Nemenyi's test mean ranks differ that are more than {gap:.2f} apart (5 %)"
    text += ", an approximation that is rough for so few cells." if cells < _FEW else "."
    if contest.ranking.p_value == contest.ranking.p_value:  # not NaN
        text += f" That all rank alike: p = {contest.ranking.p_value:.2g} (Friedman)."
    if contest.left_out:
        text += f" Without {_names(contest.left_out)}, which lack a number."
    if contest.exact:
        text += f" Not ranked: {_names(contest.exact)}, what the others are measured against."
    return text


def _names(names: Sequence[str]) -> str:
    shown = list(names[:_LISTED])
    if len(names) > _LISTED:
        return f"{', '.join(shown)} and {len(names) - _LISTED} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _value(line: TableLine, measure: str) -> str:
    return MEASURES[measure].text(line.mean.get(measure))


def _share(line: TableLine) -> str:
    return percent(line.mean["wall_share"])


def _number(measure: str, value: float) -> str:
    return MEASURES[measure].text(value)


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
