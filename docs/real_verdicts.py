"""What the scripts of verdicts on real models share: adapters and audits, each made once."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn import Records, finetune, forget
from unlearn.runs.references import train_references
from unlearn_eval import run_audit
from unlearn_eval.audit.options import GENERATED
from unlearn_eval.verdict.decision import Verdict, leave_one_out
from unlearn_eval.verdict.load import load_evidence
from unlearn_eval.verdict.policy import load_policy

POLICY = "standard"


@dataclass(frozen=True)
class Case:
    """A way to forget.

    Attributes:
        name: for the table.
        method: None for the adapter as it was.
        options: of the method.
        seed: of the method.
        treated: which records the method takes out; None for those asked about.
    """

    name: str
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    treated: str | None = None


@dataclass(frozen=True)
class Setting:
    """The records, the adapter that knows them, and a folder for what is made of them.

    Attributes:
        model: the base.
        folder: where adapters and audits go; what is there is not made again.
        data: what the adapter is trained on.
        unseen: what no adapter saw.
        lora: the shape of all adapters.
        training: how the adapter and its references are trained.
        generate: records of each split that every audited state continues by itself.
    """

    model: Path
    folder: Path
    data: Records
    unseen: Records
    lora: dict[str, Any]
    training: dict[str, Any]
    generate: int = GENERATED

    @property
    def target(self) -> Path:
        """Return the adapter that knows the records, made if it is not there."""
        path = self.folder / "target"
        if not path.is_dir():
            finetune(self.model, self.data, path, lora=self.lora, options=self.training)
        return path

    def references(self, asked: str, count: int) -> tuple[Path, ...]:
        """Return adapters that never saw some records, made if they are not there."""
        trained = train_references(
            self.model,
            self.data,
            self.folder / f"without {asked.partition(':')[2]}",
            forget=asked,
            count=count,
            like=self.target,
        )
        return trained.folders

    def forgotten(self, case: Case, asked: str) -> Path:
        """Return the adapter of a case, made if it is not there."""
        if case.method is None:
            return self.target
        path = self.folder / case.name
        if not path.is_dir():
            forget(
                self.model,
                self.data,
                case.treated or asked,
                path,
                adapter=self.target,
                method=case.method,
                holdout=self.unseen,
                options=case.options,
                seed=case.seed,
            )
        return path

    def audited(self, case: Case, asked: str, references: int) -> Path:
        """Return the audit of a case about some records, made if it is not there."""
        output = self.folder / f"{case.name}, audit of {references}"
        if not output.is_dir():
            run_audit(
                self.model,
                self.data,
                asked,
                output,
                adapter=self.forgotten(case, asked),
                before=self.target,
                references=self.references(asked, references),
                holdout=self.unseen,
                generate=self.generate,
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


def places(usage: str | None) -> tuple[Path, Path, Path]:
    """Return the model, the file of records and the folder that the command line names."""
    if len(sys.argv) != 4:
        sys.exit(usage)
    model, full, folder = (Path(word).absolute() for word in sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    return model, full, folder


def each_by_the_others(audit: Path, count: int) -> str:
    """Return the line of the table that says how references fare among themselves."""
    found = leave_one_out(load_evidence(audit), load_policy(POLICY)[1])
    counts = ", ".join(f"{n} {outcome}" for outcome, n in found.counts.most_common())
    return f"| each reference, by the {count - 1} others | {counts} | |"
