"""How often verdicts are wrong: thousands of simulated audits, through the real decision.

    python docs/verdict_simulation.py [AUDITS]

prints the table of docs/deletion-requests.md. Records have one number a model, in nats: the
difficulty of the record, shared by all models; what a model does to all forgotten records alike;
and noise.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.verdict.decision import Evidence, Policy, Verdict, View, decide
from unlearn_eval.verdict.policy import policy_of

UNSEEN, LOW = -6.0, -14.0  # log p of a record that was never seen, and of one pushed far below
RETAIN = 60
GUESS_SPREAD, GUESS_SD = 4.0, 3.0  # nats, over records and over models, of log p_z


def policy(**changed: Any) -> Policy:
    """Return the policy that simulated audits are judged by."""
    content = {
        "kind": "policy",
        "probes": ["loss"],
        "alpha": 0.05,
        "margin": 4.0,
        "delta": 0.10,
        "min_references": 3,
        "extraction": {"n": 100, "p": 0.5},
        "deployments": ["as-is"],
        "prompt_states": ["verbatim"],
        "utility_margin": 0.10,
    }
    return policy_of(content | changed, "simulation")


POLICY = policy()


@dataclass(frozen=True)
class Case:
    """One kind of audited model, and what it is judged by.

    Attributes:
        name: for the table.
        model: `deleted`, `shifted` (by `shift`), `kept`, `collapsed`, `overshot`, `halved`.
        k: references; 0 for twins.
        forget: records.
        holdout: records.
        subjects: of the forgotten records; None: independent records.
        twins: subjects of the holdout.
        icc: correlation of the noise of a subject's records.
        common: SD over models of what a model does to all forgotten records alike.
        noise: SD over models of each record.
        spread: SD over records of their difficulty.
        shift: nats added to the forgotten records' scores, if shifted.
        guess: mean of the log-probability that a model gives a record away in one try, for records
            that can partly be guessed; with SDs `GUESS_SPREAD` and `GUESS_SD`. None
            for long answers, which follow from the loss: eight times the score.
        policy: by which.
    """

    name: str
    model: str
    k: int = 5
    forget: int = 20
    holdout: int = 100
    subjects: int | None = None
    twins: int = 20
    icc: float = 0.0
    common: float = 0.15
    noise: float = 0.3
    spread: float = 1.0
    shift: float = 0.0
    guess: float | None = None
    policy: Policy = POLICY

    def labels(self, split: str) -> np.ndarray | None:
        """Return the subject of each record."""
        if self.subjects is None:
            return None
        n, groups = (
            (self.forget, self.subjects) if split == "forget" else (self.holdout, self.twins)
        )
        return np.arange(n) * groups // n

    def sd(self) -> float:
        """Return the SD over models of forget − holdout."""

        def variance(split: str, n: int) -> float:
            labels = self.labels(split)
            shares = np.full(n, 1 / n) if labels is None else np.bincount(labels) / n
            together = self.icc if labels is not None else 0.0
            return self.noise**2 * (together * np.sum(shares**2) + (1 - together) / n)

        rest = variance("forget", self.forget) + variance("holdout", self.holdout)
        return float(np.sqrt(self.common**2 + rest))


def correlated(rng: np.random.Generator, n: int, labels: Any, icc: float) -> np.ndarray:
    """Return standard normal values, of intra-class correlation `icc` by label."""
    noise = rng.normal(size=n)
    if labels is None:
        return noise
    effects = rng.normal(size=labels.max() + 1)[labels]
    return np.sqrt(icc) * effects + np.sqrt(1 - icc) * noise


@cache
def names(prefix: str, n: int) -> tuple[str, ...]:
    """Return record ids."""
    return tuple(f"{prefix}{i}" for i in range(n))


def matrix(values: np.ndarray, prefix: str, answers: np.ndarray | None = None) -> TokenScores:
    """Return score matrices of one token a record; by default the whole answer is of eight."""
    n = len(values)
    zero, log_prob = np.zeros(n), np.minimum(values, 0.0)
    return TokenScores(
        ids=names(prefix, n),
        offsets=np.arange(n + 1),
        log_prob=log_prob,
        hit=zero == 1,
        rank=np.ones(n, dtype=np.int64),
        mean=zero - 6,
        std=zero + 1,
        entropy=zero + 2,
        sampled={(1.0, 40): 8 * log_prob if answers is None else np.minimum(answers, 0.0)},
    )


def audit(case: Case, rng: np.random.Generator) -> Evidence:
    """Draw one audit."""
    sizes = {"forget": case.forget, "holdout": case.holdout}
    labels = {split: case.labels(split) for split in sizes}
    hard = {
        split: UNSEEN + case.spread * correlated(rng, n, labels[split], case.icc)
        for split, n in sizes.items()
    }

    def unseen() -> dict[str, np.ndarray]:
        found = {
            split: hard[split] + case.noise * correlated(rng, n, labels[split], case.icc)
            for split, n in sizes.items()
        }
        found["forget"] = found["forget"] + case.common * rng.normal()
        return found | {"retain": -0.02 * np.abs(rng.normal(size=RETAIN))}

    def known() -> np.ndarray:
        return -0.02 * np.abs(rng.normal(size=case.forget))

    after, before = unseen(), unseen() | {"forget": known()}
    if case.model == "shifted":
        after["forget"] = after["forget"] + case.shift
    elif case.model == "kept":
        after["forget"] = known()
    elif case.model == "overshot":
        after["forget"] = LOW + rng.normal(size=case.forget)
    elif case.model == "halved":
        half = np.arange(case.forget) % 2 == 0
        after["forget"] = np.where(half, 2 * UNSEEN - UNSEEN / 2, UNSEEN / 2) + (
            0.5 * rng.normal(size=case.forget)
        )
    elif case.model == "collapsed":
        after = {s: -11 + 0.5 * rng.normal(size=len(v)) for s, v in after.items()}
    states = {"before": before, "after": after}
    states |= {f"reference:{j}": unseen() for j in range(case.k)} or {"base": unseen()}
    scores = {
        state: {split: matrix(values, split[0]) for split, values in splits.items()}
        for state, splits in states.items()
    }
    if case.guess is not None:
        easy = case.guess + GUESS_SPREAD * rng.normal(size=case.forget)
        for state, splits in states.items():
            known_whole = state == "before" or (state == "after" and case.model == "kept")
            said = easy + GUESS_SD * rng.normal(size=case.forget)
            said = 8 * splits["forget"] if known_whole else said
            scores[state]["forget"] = matrix(splits["forget"], "f", said)
    subjects = {split: list(found) for split, found in labels.items() if found is not None}
    if subjects:
        subjects["holdout"] = [1000 + s for s in subjects["holdout"]]
    return Evidence({View(): scores}, subjects)


def verdicts(case: Case, audits: int, seed: int = 0) -> list[Verdict]:
    """Judge that many audits of one case."""
    rng = np.random.default_rng(seed)
    return [decide(audit(case, rng), case.policy) for _ in range(audits)]


def shift_to(theta: float, case: Case) -> float:
    """Return how far forgotten records must be shifted for this θ."""
    return float(np.hypot(case.spread, case.noise) * np.sqrt(2) * stats.norm.ppf(theta))


def cases() -> Iterator[tuple[Case, str]]:
    """Yield every case of the table, and which outcome there would be wrong."""
    one = Case("", "deleted", forget=1)
    group = Case("", "deleted", subjects=4, forget=40, icc=0.3)
    references = [
        ("1 record, 5 references", one),
        ("1 record, 19 references", replace(one, k=19)),
        ("20 records, 3 references", Case("", "deleted", k=3)),
        ("20 records, 5 references", Case("", "deleted")),
        ("20 records, 8 references", Case("", "deleted", k=8)),
        ("40 records of 4 people, ICC .3, 5 references", group),
    ]
    for name, case in references:
        yield replace(case, name=f"A: {name}"), "FAIL"
    for name, case in references:
        shift = case.policy.margin * case.sd()
        yield replace(case, name=f"A: {name}", model="shifted", shift=shift), "PASS"
    for model in ("kept", "overshot", "halved", "collapsed"):
        yield Case("A: 20 records, 5 references", model), "not FAIL"

    twins = Case("", "deleted", k=0, forget=200, holdout=400, common=0.0)
    people = replace(twins, subjects=40, twins=40, icc=0.3)
    unseen = [
        ("200 records, 400 twins", twins),
        ("200 records of 40 people, ICC .3, 40 others", people),
        ("200 records of 10 people, ICC .3, 10 others", replace(people, subjects=10, twins=10)),
        (
            "100 records of 1 person, ICC .3, 10 others",
            replace(people, forget=100, holdout=1000, subjects=1, twins=10),
        ),
        (
            "10 records of 1 person, ICC .3, 39 others",
            replace(people, forget=10, holdout=390, subjects=1, twins=39),
        ),
    ]
    for name, case in unseen:
        yield replace(case, name=f"C: {name}"), "FAIL"
    for name, case in unseen[:2]:
        shift = shift_to(0.5 + case.policy.delta, case)
        yield replace(case, name=f"C: {name}", model="shifted", shift=shift), "PASS"
    for model in ("kept", "overshot", "halved", "collapsed"):
        yield replace(twins, name="C: 200 records, 400 twins", model=model), "not FAIL"
    few = replace(people, forget=2, holdout=780, subjects=1, twins=39)
    yield replace(few, name="C: 2 records of 1 person, ICC .3, 39 others of 20"), "FAIL"
    easy = Case("A: 20 records that can be guessed, 5 references", "deleted", guess=-12)
    yield easy, "FAIL"
    yield replace(easy, name="A: 20 records that can be guessed, 8 references", k=8), "FAIL"
    yield replace(easy, model="kept"), "not FAIL"
    short = Case("C: 20 records that can be guessed, 400 twins", "deleted", k=0, holdout=400)
    yield replace(short, guess=-12), "FAIL"


def wrong(found: list[Verdict], what: str) -> int:
    """Count the verdicts that are wrong."""
    if what == "not FAIL":
        return sum(verdict.outcome != "FAIL" for verdict in found)
    return sum(verdict.outcome == what for verdict in found)


def table(audits: int) -> str:
    """Return all cases as a Markdown table."""
    lines = [
        "| judged by | model | PASS | INCONCLUSIVE | FAIL | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for i, (case, what) in enumerate(cases()):
        found = verdicts(case, audits, seed=i)
        counts = Counter(verdict.outcome for verdict in found)
        shares = " | ".join(
            f"{100 * counts[o] / audits:.1f} %" for o in ("PASS", "INCONCLUSIVE", "FAIL")
        )
        model = "at the margin" if case.model == "shifted" else case.model
        bad = f"{100 * wrong(found, what) / audits:.1f} % {what}"
        lines.append(f"| {case.name} | {model} | {shares} | {bad} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
