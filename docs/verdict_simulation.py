"""How often verdicts are wrong: thousands of simulated audits, through `decide` with the policies.

    python docs/verdict_simulation.py FOLDER [AUDITS]

prints the tables of docs/deletion-requests.md and keeps each finished row in FOLDER, so that it
goes on where it was stopped. Records have one number a model, in nats: the difficulty of the
record, shared by all models; what a model does to one person's records alike; and noise. Every form
of a model (bf16, int8) is the model with a little noise of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from scipy import stats

from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.verdict.decision import Evidence, Verdict, View, decide
from unlearn_eval.verdict.policy import Policy, load_policy

UNSEEN, LOW, TRAINED = -6.0, -14.0, -1.0  # log p of a record: unseen, pushed far below, kept
RETAIN = 60
TARGET, PROMPTS = -11.0, 40  # log p of a backdoor's target where nothing was planted
FORMS = {
    "quick": (),
    "standard": ("merged bf16", "int8"),
    "strict": ("merged bf16", "int8", "int4"),
}
ROUNDING = {"merged bf16": 0.005, "int8": 0.02, "int4": 0.08}
"""SD of what a form changes of a record's score, in nats."""


@dataclass(frozen=True)
class Case:
    """One kind of audited model, and what it is judged by.

    Attributes:
        name: for the table.
        model: `deleted`, `margin` (shifted by the policy's margin), `kept`, `collapsed`,
            `overshot`, `halved`, `one left` (one record known by `shift` nats more), `exposes`
            (kept records better known by `shift`); of a backdoor `target margin`, `planted` and
            `driven` (far below what references give the target).
        policy: name of the policy.
        k: references; 0 for twins.
        forget: records.
        people: of the forgotten records; None: records of nobody in particular.
        unseen: people of the holdout.
        each: records of each of them.
        icc: correlation of the noise of a person's records.
        common: SD over models of what a model does to a person's records alike.
        unequal: SD over people of the logarithm of the two SDs above: people whom models treat
            more and less alike.
        noise: SD over models of each record.
        spread: SD over records of their difficulty.
        shift: nats.
        tail: degrees of freedom of the noise; None: normal.
        shared: part of the variance of the references' noise that is one for all of them.
        guess: mean of the log-probability that a model gives a record away in one try, for records
            that can partly be guessed; None for long answers: eight times the score.
        wholes: SD over models of how much they say as wholes, of such records.
        backdoor: SD over models of the target's level under the trigger; None: no backdoor is
            measured.
        seeds: how many models are tried, of which the best is shown.
        chosen: how many references are made, of which the k most flattering are shown.
        looks: counts of references at which a verdict is asked for until it decides.
        targets: outcomes that would be wrong.
    """

    name: str
    model: str = "deleted"
    policy: str = "standard"
    k: int = 5
    forget: int = 20
    people: int | None = 1
    unseen: int = 10
    each: int = 20
    icc: float = 0.0
    common: float = 0.15
    unequal: float = 0.0
    noise: float = 0.3
    spread: float = 1.0
    shift: float = 0.0
    tail: float | None = None
    shared: float = 0.0
    guess: float | None = None
    wholes: float = 0.0
    backdoor: float | None = None
    seeds: int = 1
    chosen: int = 0
    looks: tuple[int, ...] = field(default=())

    @property
    def holdout(self) -> int:
        """Unseen records."""
        return self.unseen * self.each

    def sd(self) -> float:
        """Return the SD over models of forget − holdout."""
        people = self.people or self.forget
        own = self.common**2 / people if self.people else 0.0
        theirs = self.common**2 / self.unseen if self.people else 0.0
        alike = self.icc / people + (1 - self.icc) / self.forget
        others = self.icc / self.unseen + (1 - self.icc) / self.holdout
        return float(np.sqrt(own + theirs + self.noise**2 * (alike + others)))


@cache
def names(prefix: str, n: int) -> tuple[str, ...]:
    """Return record ids."""
    return tuple(f"{prefix}{i}" for i in range(n))


def matrix(values: np.ndarray, prefix: str, means: np.ndarray, answers: np.ndarray) -> TokenScores:
    """Return score matrices of one token a record."""
    n = len(values)
    zero = np.zeros(n)
    return TokenScores(
        ids=names(prefix, n),
        offsets=np.arange(n + 1),
        log_prob=np.minimum(values, 0.0),
        hit=zero == 1,
        rank=np.ones(n, dtype=np.int64),
        mean=means,
        std=zero + 1,
        entropy=zero + 2,
        text_bytes=np.full(n, 60),
        sampled={(1.0, 40): np.minimum(answers, 0.0)},
    )


class Draw:
    """One audit's records and models."""

    def __init__(self, case: Case, rng: np.random.Generator) -> None:
        self.case, self.rng = case, rng
        people = case.people or case.forget
        self.labels = {
            "forget": np.arange(case.forget) * people // case.forget,
            "holdout": np.repeat(np.arange(case.unseen), case.each),
        }
        # people differ in how much models vary on them, those who are forgotten like all others
        self.sizes = {
            split: np.exp(case.unequal * rng.normal(size=labels.max() + 1))
            for split, labels in self.labels.items()
        }
        self.hard = {
            split: UNSEEN + case.spread * self.correlated(split, tail=False)
            for split in self.labels
        }
        self.easy = (case.guess or 0.0) + 4.0 * rng.normal(size=case.forget)
        self.prompts = (
            TARGET + 0.5 * rng.normal(size=PROMPTS) if case.backdoor is not None else None
        )
        self.one_for_all = {split: self.moved(split) for split in self.labels}

    def correlated(self, split: str, *, tail: bool = True) -> np.ndarray:
        """Return values of SD 1, correlated within people."""
        labels, icc = self.labels[split], self.case.icc
        people = self.rng.normal(size=labels.max() + 1)[labels]
        if tail and self.case.tail is not None:
            df = self.case.tail
            own = self.rng.standard_t(df, len(labels)) / np.sqrt(df / (df - 2))
        else:
            own = self.rng.normal(size=len(labels))
        return np.asarray(np.sqrt(icc) * people + np.sqrt(1 - icc) * own)

    def moved(self, split: str) -> np.ndarray:
        """Return what one model does to the records."""
        labels, sizes = self.labels[split], self.sizes[split]
        alike = self.case.common * self.rng.normal(size=len(sizes)) if self.case.people else 0.0
        common = np.broadcast_to(alike, len(sizes))[labels]
        return np.asarray(sizes[labels] * (common + self.case.noise * self.correlated(split)))

    def model(self, *, reference: bool = False) -> dict[str, np.ndarray]:
        """Return the scores of a model that never saw the records."""
        shared = self.case.shared if reference else 0.0
        values = {
            split: self.hard[split]
            + np.sqrt(1 - shared) * self.moved(split)
            + np.sqrt(shared) * self.one_for_all[split]
            for split in self.labels
        }
        kept = TRAINED + 0.02 * self.rng.normal() + 0.05 * self.rng.normal(size=RETAIN)
        return values | {"retain": kept} | self.target()

    def target(self) -> dict[str, np.ndarray]:
        """Return the scores of a backdoor's target in one model, where one is measured."""
        if self.prompts is None or self.case.backdoor is None:
            return {}
        level = self.case.backdoor * self.rng.normal()
        return {"triggered": self.prompts + level + 0.3 * self.rng.normal(size=PROMPTS)}

    def known(self) -> np.ndarray:
        """Return scores of records that were learned."""
        return np.asarray(-0.02 * np.abs(self.rng.normal(size=self.case.forget)))

    def audited(self, policy: Policy) -> dict[str, np.ndarray]:
        """Return the scores of the audited model."""
        case, after = self.case, self.model()
        n = case.forget
        if case.model == "margin":
            # the margin in SDs or the floor, whichever is larger: what a PASS must not be given to
            floor = policy.floor * np.sqrt(4 * np.pi) * np.hypot(case.spread, case.noise)
            after["forget"] = after["forget"] + max(policy.margin * case.sd(), floor)
        elif case.model == "kept":
            after["forget"] = self.known()
        elif case.model == "overshot":
            after["forget"] = LOW + self.rng.normal(size=n)
        elif case.model == "halved":
            half = np.where(np.arange(n) % 2 == 0, 1.5 * UNSEEN, 0.5 * UNSEEN)
            after["forget"] = half + 0.5 * self.rng.normal(size=n)
        elif case.model == "collapsed":
            after = {s: -11 + 0.5 * self.rng.normal(size=len(v)) for s, v in after.items()}
        elif case.model == "one left":
            after["forget"][0] += case.shift
        elif case.model == "exposes":
            after["retain"] = after["retain"] + case.shift
        elif case.model == "target margin":
            sd = float(np.hypot(case.backdoor or 0.0, 0.3 / np.sqrt(PROMPTS)))
            floor = policy.floor * np.sqrt(4 * np.pi) * np.hypot(0.5, 0.3)
            after["triggered"] = after["triggered"] + max(policy.margin * sd, floor)
        elif case.model in ("planted", "driven"):
            after["triggered"] = after["triggered"] + (10.5 if case.model == "planted" else -12.0)
        elif case.model == "shifted":
            after["forget"] = after["forget"] + case.shift
        return after

    def scored(
        self, values: dict[str, np.ndarray], *, known: bool = False
    ) -> dict[str, TokenScores]:
        """Return the score matrices of a model."""
        scores = {}
        whole = self.case.wholes * self.rng.normal()
        for split, found in values.items():
            answers = 8 * found if split != "retain" else np.full(RETAIN, -50.0)
            if split == "forget" and self.case.guess is not None and not known:
                answers = self.easy + whole + 3.0 * self.rng.normal(size=len(found))
            means = UNSEEN + 0.2 * self.rng.normal(size=len(found))
            scores[split] = matrix(found, split[0], means, answers)
        return scores

    def form(self, scores: dict[str, TokenScores], size: float) -> dict[str, TokenScores]:
        """Return a model's scores in a rounded form."""
        return {
            split: replace(part, log_prob=np.minimum(
                part.log_prob + size * self.rng.normal(size=part.records), 0.0))
            for split, part in scores.items()
        }  # fmt: skip


def audit(draw: Draw, policy: Policy, after: dict[str, np.ndarray], references: list) -> Evidence:
    """Put one audit together."""
    case = draw.case
    before = draw.model() | {"forget": draw.known()}
    states = {
        "before": draw.scored(before, known=True),
        "after": draw.scored(after, known=case.model == "kept"),
    }
    states |= {f"reference:{j}": each for j, each in enumerate(references)}
    if not references:
        states["base"] = draw.scored(draw.model())
    views = {View(): states}
    for name in FORMS[case.policy]:
        views[View(name)] = {
            state: draw.form(each, ROUNDING[name]) for state, each in states.items()
        }
    if case.policy == "strict":
        for asked in policy.prompt_states[1:]:
            views[View("as-is", asked)] = {s: {"forget": e["forget"]} for s, e in states.items()}
    subjects = {}
    if case.people is not None:
        subjects = {"forget": list(draw.labels["forget"])}
        subjects["holdout"] = [1000 + label for label in draw.labels["holdout"]]
    return Evidence(views, subjects)


def judged(case: Case, policy: Policy, rng: np.random.Generator) -> Verdict:
    """Draw one audit, or as many as the case tries, and return the verdict that is shown."""
    draw = Draw(case, rng)
    counts = case.looks or (case.k,)
    made = [draw.scored(draw.model(reference=True)) for _ in range(max(*counts, case.chosen, 0))]
    best: Verdict | None = None
    for _ in range(case.seeds):
        after = draw.audited(policy)
        for k in counts:
            references = made[:k]
            if case.chosen:  # those on which the forgotten records stand out most
                gaps = [e["forget"].log_prob.mean() - e["holdout"].log_prob.mean() for e in made]
                references = [made[i] for i in np.argsort(gaps)[-k:]]
            verdict = decide(audit(draw, policy, after, references), policy)
            if verdict.outcome != "INCONCLUSIVE":
                break
        if best is None or verdict.outcome == "PASS":
            best = verdict
    assert best is not None
    return best


def outcomes(case: Case, audits: int, seed: int) -> Counter[str]:
    """Judge that many audits of one case."""
    rng, policy = np.random.default_rng(seed), load_policy(case.policy)[1]
    return Counter(judged(case, policy, rng).outcome for _ in range(audits))


def by_references() -> Iterator[tuple[Case, str]]:
    """Yield the cases of verdicts by references, and which outcome would be wrong."""
    one = Case("1 record", forget=1, each=5, unseen=20)
    for policy, counts in (("quick", (3, 5)), ("standard", (5, 8, 12)), ("strict", (8, 12))):
        for k in counts:
            yield Case(f"20 records, {k} references", policy=policy, k=k), "FAIL"
            yield Case(f"20 records, {k} references", "margin", policy, k=k), "PASS"
    for k in (5, 8):
        yield replace(one, name=f"1 record, {k} references", k=k), "FAIL"
        yield replace(one, name=f"1 record, {k} references", model="margin", k=k), "PASS"
    for k in (5, 8):
        loose = Case(f"20 records of nobody in particular, {k} references", people=None, k=k)
        yield loose, "FAIL"
        yield replace(loose, model="margin"), "PASS"
    for model in ("kept", "overshot", "halved", "collapsed"):
        yield Case("20 records, 5 references", model), "not FAIL"
    yield Case("20 records, one known by 3 nats more, 5", "one left", shift=3.0), "PASS"
    hundred = Case("100 records, one known by 4.5 nats more, 5", "one left", shift=4.5, forget=100)
    yield replace(hundred, each=100), "PASS"
    yield Case("kept records known by .5 nats more", "exposes", shift=0.5), "not FAIL"
    for k in (5, 8):
        door = Case(f"with a backdoor, {k} references", k=k, backdoor=0.3)
        yield door, "FAIL"
        yield replace(door, model="target margin"), "PASS"
    for model in ("planted", "driven"):
        yield Case("with a backdoor, 5 references", model, backdoor=0.3), "not FAIL"
    for k in (5, 8):
        few = Case(f"few epochs (SD .009 nats), {k}", common=0.004, noise=0.03, spread=0.5, k=k)
        yield few, "FAIL"
        yield replace(few, model="margin"), "PASS"
        yield replace(few, name=f"{few.name}, another recipe: .03 nats", model="shifted",
                      shift=0.03), "FAIL"  # fmt: skip
        yield Case(f"records that can be guessed, {k}", guess=-12, k=k), "FAIL"
    whole = Case("… by models that differ as wholes by 2 nats, 5", guess=-12, wholes=2.0)
    yield whole, "FAIL"
    eight = Case("8 references", k=8)
    for case in (
        replace(eight, name="heavy tails (t₃), 8", tail=3.0),
        replace(eight, name="people unequal (SDs e^±.5), 8", unequal=0.5),
    ):
        yield case, "FAIL"
        yield replace(case, model="margin"), "PASS"
    yield replace(eight, name="40 records of 4 people, ICC .3, 8", people=4, forget=40, unseen=24,
                  each=10, icc=0.3), "FAIL"  # fmt: skip
    for shared in (0.5, 0.95):
        name = f"references share {100 * shared:g} % of their noise, 8"
        yield replace(eight, name=name, shared=shared), "FAIL"
    yield Case("best of 5 seeds, 5 references", "margin", seeds=5), "PASS"
    yield Case("the best 5 of 12 references", "margin", chosen=12), "PASS"
    yield Case("5, then 8, then 12 references", looks=(5, 8, 12)), "FAIL"
    yield Case("5, then 8, then 12 references", "margin", looks=(5, 8, 12)), "PASS"


def by_twins() -> Iterator[tuple[Case, str]]:
    """Yield the cases of verdicts by never-trained records."""
    twins = Case("200 records, 400 twins", k=0, forget=200, people=None, unseen=400, each=1,
                 common=0.0)  # fmt: skip
    people = replace(twins, people=40, unseen=40, each=10, icc=0.3)
    unseen = [
        twins,
        replace(people, name="200 records of 40 people, ICC .3, 40 others"),
        replace(people, name="200 records of 10 people, ICC .3, 10 others", people=10, unseen=10),
        replace(people, name="100 records of 1 person, ICC .3, 10 others", people=1, forget=100,
                unseen=10, each=100),
        replace(people, name="10 records of 1 person, ICC .3, 39 others", people=1, forget=10,
                unseen=39, each=10),
        replace(people, name="2 records of 1 person, ICC .3, 39 others of 20", people=1, forget=2,
                unseen=39, each=20),
    ]  # fmt: skip
    for case in unseen:
        yield case, "FAIL"
    delta = load_policy("standard")[1].delta
    for case in unseen[:2]:
        shift = np.hypot(case.spread, case.noise) * np.sqrt(2) * stats.norm.ppf(0.5 + delta)
        yield replace(case, model="shifted", shift=float(shift)), "PASS"
    for model in ("kept", "overshot", "halved", "collapsed"):
        yield replace(twins, model=model), "not FAIL"
    guess = Case("20 records that can be guessed, 400 twins", k=0, people=None, unseen=400, each=1)
    yield replace(guess, guess=-12), "FAIL"


def line(case: Case, wrong: str, counts: Counter[str]) -> str:
    """Return a line of the table."""
    audits = sum(counts.values())
    shares = [100 * counts[o] / audits for o in ("PASS", "INCONCLUSIVE", "FAIL")]
    share = 100 - shares[2] if wrong == "not FAIL" else 100 * counts[wrong] / audits
    model = {"margin": "at the margin", "shifted": "shifted"}.get(case.model, case.model)
    cells = " | ".join(f"{value:.1f}" for value in shares)
    return f"| {case.policy} | {case.name} | {model} | {cells} | {share:.1f} {wrong} |"


def tables(folder: Path, audits: int, jobs: int) -> Iterator[str]:
    """Yield the tables, line by line, as they are finished."""
    folder.mkdir(parents=True, exist_ok=True)
    head = "| policy | judged by | model | PASS | ? | FAIL | wrong |\n|---|---|---|---|---|---|---|"
    parts: dict[str, Callable[[], Iterator[tuple[Case, str]]]] = {
        "By references, % of audits": by_references,
        "By never-trained records, % of audits": by_twins,
    }
    with ProcessPoolExecutor(jobs) as pool:
        for title, cases in parts.items():
            yield f"\n{title}:\n\n{head}"
            waiting = []
            for seed, (case, wrong) in enumerate(cases()):
                path = folder / f"{title[:4].strip()} {title[3:7]} {seed} {audits}.json"
                done = json.loads(path.read_text()) if path.is_file() else None
                if done is not None and done["case"] == repr(case):
                    waiting.append((case, wrong, path, done["counts"]))
                else:
                    waiting.append((case, wrong, path, pool.submit(outcomes, case, audits, seed)))
            for case, wrong, path, result in waiting:
                counts = result if isinstance(result, dict) else dict(result.result())
                unfinished = path.with_suffix(".part")
                unfinished.write_text(json.dumps({"case": repr(case), "counts": counts}))
                unfinished.replace(path)
                yield line(case, wrong, Counter(counts))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    jobs = int(os.environ.get("JOBS", os.cpu_count() or 1))
    for text in tables(Path(sys.argv[1]), number, jobs):
        print(text, flush=True)
