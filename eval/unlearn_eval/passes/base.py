"""What passes are planned from, what they see of a state, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example
from unlearn.errors import DataError
from unlearn.model.scoring import Head
from unlearn.model.state import ModelState
from unlearn_eval.arrays import IntArray
from unlearn_eval.backdoor.prompts import BackdoorPrompts
from unlearn_eval.passes.inputs import Perturbed
from unlearn_eval.scores.cache import Cache
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["AuditedState", "Material", "PassResult", "PlannedPass"]


@dataclass(frozen=True)
class AuditedState:
    """One state, ready to run.

    Attributes:
        key: its name in the audit.
        model: the model.
        head: its projection.
        digest: of its weights.
        folder: what was opened; None for the base.
        stamp: digest of all that decides what it computes.
        opened: what was opened, to be treated further; None for the base.
    """

    key: str
    model: Any
    head: Head
    digest: str
    folder: Path | None
    stamp: str
    opened: ModelState | None = None


@dataclass(frozen=True)
class Material:
    """What an audit has before it looks at any state.

    Attributes:
        records: by split.
        examples: the same, encoded.
        tokenizer: the model's.
        template: how records are written.
        max_length: the longest sequence of the model, in tokens.
        seed: of everything drawn at random.
        paraphrases: other prompts by record id.
        perturbed: other answers by split and position.
        backdoor: prompts with a trigger and without, where a backdoor is measured.
    """

    records: Mapping[str, Records]
    examples: Mapping[str, Sequence[Example]]
    tokenizer: Any
    template: Template
    max_length: int
    seed: int = 0
    paraphrases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    perturbed: Perturbed = field(default_factory=dict)
    backdoor: BackdoorPrompts | None = None

    @property
    def scored(self) -> dict[str, Sequence[Example]]:
        """All that every state scores: the records, and the prompts of a backdoor."""
        return {**self.examples, **(self.backdoor.examples if self.backdoor else {})}

    @property
    def subjects(self) -> dict[str, Sequence[str | None]]:
        """The subject of each, by split; a prompt has that of the unseen record that it is from."""
        subjects: dict[str, Sequence[str | None]] = {
            split: part.subjects for split, part in self.records.items()
        }
        if self.backdoor is not None:
            mine = [subjects["holdout"][i] for i in self.backdoor.positions]
            subjects |= dict.fromkeys(self.backdoor.examples, mine)
        return subjects

    def sides(self) -> dict[str, Sequence[Example]]:
        """Return the two sides of a membership game, as far as there are records."""
        return {key: self.examples[key] for key in ("forget", "holdout") if key in self.examples}

    def drawn(self, split: str, wanted: int, option: str) -> IntArray:
        """Draw records of a split at random, at most half of it.

        Args:
            split: which one.
            wanted: how many.
            option: the pass that asks, for the message.

        Returns:
            Positions in order, at least one.

        Raises:
            DataError: if the split has fewer than two records.
        """
        total = len(self.examples.get(split, ()))
        if total < 2:
            raise DataError(
                f"--also {option} shows the model some {split} records first, and there are "
                f"{total}: pass --{split} with two or more"
            )
        rng = np.random.default_rng([self.seed, total])
        return np.sort(rng.permutation(total)[: min(wanted, total // 2)])


@dataclass
class PassResult:
    """What a pass found out about one state.

    Attributes:
        measures: by split.
        prompted: scores of the forget records by prompt state.
    """

    measures: dict[str, list[Measurement]] = field(default_factory=dict)
    prompted: dict[str, TokenScores] = field(default_factory=dict)

    def add(self, split: str, measure: Measurement) -> None:
        """Add one measure of a split."""
        self.measures.setdefault(split, []).append(measure)


@dataclass(frozen=True)
class PlannedPass:
    """A pass with everything drawn and prepared.

    Attributes:
        run: looks at one state, given its scores by split and the cache.
        records: how many records it looks at.
        unmeasured: by prompt state, which records it cannot look at, and why.
    """

    run: Callable[[AuditedState, Mapping[str, TokenScores], Cache], PassResult]
    records: int
    unmeasured: Mapping[str, str] = field(default_factory=dict)
