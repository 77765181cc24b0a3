"""Verdicts on real models whose state is known: TOFU's last author, forgotten in several ways.

    python docs/verdict_tofu.py MODEL full.json FOLDER

prints a table. It trains some thirty adapters and goes on where it was killed.
200 records are learned by heart, and 20 adapters are trained without the last author's 20: eight of
them are the references, and each of the 20 is judged by the 19 others. One record alone is judged
by five adapters that saw all but it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn import Records, finetune, forget
from unlearn.runs.references import train_references
from unlearn_eval import run_audit
from unlearn_eval.verdict.decision import Verdict, leave_one_out
from unlearn_eval.verdict.load import load_evidence
from unlearn_eval.verdict.policy import load_policy
from unlearn_eval.verdict.verify import verify

TRAINED, UNSEEN, AUTHOR = "rows:3800-3999", "rows:3600-3699", "rows:180-199"
LORA = {"r": 32, "lora_alpha": 64}
TRAINING = {"learning_rate": 1e-2, "batch_size": 16, "epochs": 60}
REFERENCES, JUDGES, FEWEST = 20, 8, 5
POLICY = "standard"


@dataclass(frozen=True)
class Case:
    """A way to forget.

    Attributes:
        name: for the table.
        method: None for the adapter as it was.
        options: of the method.
        seed: of the method.
        treated: which records the method takes out.
        asked: which records the audit is about.
    """

    name: str
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    treated: str = AUTHOR
    asked: str = AUTHOR


ONE = {"treated": "rows:199-199", "asked": "rows:199-199"}
PUSHED = {"learning_rate": 5e-4, "epochs": 20, "stop": "none"}
CASES = [
    Case("as it was"),
    Case("gradient ascent, far above unseen records", "grad_ascent", PUSHED),
    Case("collapsed", "grad_ascent", PUSHED | {"learning_rate": 5e-3}),
    Case("half far above, half left", "grad_diff", PUSHED, treated="rows:180-189"),
    Case("npo", "npo"),
    Case("grad_diff", "grad_diff"),
    *(Case(f"pilot, seed {seed}", "pilot", seed=seed) for seed in range(5)),
    *(Case(f"retrained, seed {seed}", "retrain", seed=seed) for seed in range(1, 4)),
    Case("one record: as it was", **ONE),
    Case("one record: pilot", "pilot", **ONE),
    Case("one record: retrained", "retrain", seed=1, **ONE),
]


class Setting:
    """The records, the adapter that knows them, and those that never saw the author."""

    def __init__(self, model: Path, full: Path, folder: Path) -> None:
        everything = Records.load(full)
        self.model, self.folder = model, folder
        self.data, self.unseen = everything.select(TRAINED), everything.select(UNSEEN)
        self.target = folder / "target"
        if not self.target.is_dir():
            finetune(model, self.data, self.target, lora=LORA, options=TRAINING)

    def references(self, gone: str, count: int) -> tuple[Path, ...]:
        """Return adapters that never saw some records, made if they are not there."""
        trained = train_references(
            self.model,
            self.data,
            self.folder / f"without {gone.removeprefix('rows:')}",
            forget=gone,
            count=count,
            like=self.target,
        )
        return trained.folders

    def forgotten(self, case: Case) -> Path:
        """Return the adapter of a case, made if it is not there."""
        if case.method is None:
            return self.target
        path = self.folder / case.name
        if not path.is_dir():
            forget(
                self.model,
                self.data,
                case.treated,
                path,
                adapter=self.target,
                method=case.method,
                holdout=self.unseen,
                options=case.options,
                seed=case.seed,
            )
        return path

    def audited(self, name: str, adapter: Path, asked: str, references: int) -> Path:
        """Return the audit of an adapter, made if it is not there."""
        output = self.folder / f"{name}, audit of {references}"
        if not output.is_dir():
            run_audit(
                self.model,
                self.data,
                asked,
                output,
                adapter=adapter,
                before=self.target,
                references=self.references(asked, references),
                holdout=self.unseen,
                policy=POLICY,
            )
        return output


def far(verdict: Verdict) -> str:
    """Name the probe that is furthest from the references, and how far, in their SDs."""
    worst, name = max(
        (
            (abs(x.value - x.reference_mean) / x.reference_sd, f"{x.probe}, {x.deployment}")
            for x in verdict.probes
            if x.value is not None and x.reference_mean is not None and x.reference_sd
        ),
        default=(float("nan"), "none"),
    )
    return f"{worst:.1f} ({name})"


def rows(setting: Setting) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| model | verdict | furthest probe, in the references' SDs |\n|---|---|---|"
    for case in CASES:
        judges = JUDGES if case.asked == AUTHOR else FEWEST
        audit = setting.audited(case.name, setting.forgotten(case), case.asked, judges)
        verdict = verify(audit)
        yield f"| {case.name} | {verdict.outcome} | {far(verdict)} |"
    judged = setting.audited(
        "retrained, seed 1", setting.folder / "retrained, seed 1", AUTHOR, REFERENCES
    )
    found = leave_one_out(load_evidence(judged), load_policy(POLICY)[1])
    counts = ", ".join(f"{n} {outcome}" for outcome, n in found.counts.most_common())
    yield f"| each reference, by the {REFERENCES - 1} others | {counts} | |"
    yield f"\nSaid beforehand, with {REFERENCES} references: {verify(judged).power}"


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    model, full, folder = (Path(word).absolute() for word in sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for line in rows(Setting(model, full, folder)):
        print(line, flush=True)
