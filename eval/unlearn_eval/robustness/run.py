"""Treat the unlearned state and its references alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from unlearn.data.tokenization import Example
from unlearn.errors import UnlearnError
from unlearn.model.state import ModelState
from unlearn.training.fitting import sample
from unlearn_eval.robustness import Treatment
from unlearn_eval.robustness.cached import apply
from unlearn_eval.robustness.treatments.options import OPTIONS, Options
from unlearn_eval.robustness.treatments.treated import Examples, Setting, TreatedState
from unlearn_eval.scores.cache import Cache
from unlearn_eval.scores.processes import ProcessLostError, everywhere
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["TreatmentRuns", "treats"]


def treats(key: str) -> bool:
    """Say whether a state of an audit is treated: the unlearned one and the references."""
    return key == "after" or key.startswith("reference:")


@dataclass
class TreatmentRuns:
    """Treatments of the states of an audit, as these pass by.

    Attributes:
        treatments: which.
        setting: shared by all.
        cache: where what they gave is kept.
        options: what was set of each, by name; the defaults of those that are missing.
        treated: by state, what each treatment gave.
        refused: by state, why a treatment was not possible.
    """

    treatments: Sequence[Treatment]
    setting: Setting
    cache: Cache = field(default_factory=Cache)
    options: Mapping[str, Options] = field(default_factory=dict)
    treated: dict[str, list[tuple[Treatment, TreatedState]]] = field(default_factory=dict)
    refused: dict[str, list[tuple[Treatment, str]]] = field(default_factory=dict)

    def work(self, examples: Examples) -> int:
        """Return about how many records are scored of each treated state.

        Args:
            examples: encoded records by split.

        Returns:
            What `at` counts in all.
        """
        return sum(self._work(t, _looked_at(examples)) for t in self.treatments)

    def at(
        self,
        key: str,
        state: ModelState,
        examples: Examples,
        count: Callable[[int], None],
        stamp: str = "",
    ) -> None:
        """Apply every treatment to one state, which is left as it was.

        Args:
            key: the state's name in the audit.
            state: the state.
            examples: encoded records by split.
            count: called with the records done after each treatment.
            stamp: digest of all that decides what the state computes; empty keeps nothing.
        """
        some = _looked_at(examples)
        treated_states = self.treated.setdefault(key, [])
        for treatment in self.treatments:
            how = self._options(treatment).model_dump()
            work = partial(apply, treatment, state, some, self.setting, how, self.cache, stamp)
            try:
                treated_states += [(treatment, t) for t in everywhere(work)]
            except ProcessLostError:
                raise
            except UnlearnError as error:
                self.refused.setdefault(key, []).append((treatment, str(error)))
            except torch.OutOfMemoryError:
                self.refused.setdefault(key, []).append((treatment, "out of memory"))
            count(self._work(treatment, some))

    def scores(self) -> dict[str, dict[str, Mapping[str, TokenScores]]]:
        """Return the score matrices of all treated states, by state, deployment and split."""
        return {
            key: {treated.deployment: treated.scores for _, treated in treated_states}
            for key, treated_states in self.treated.items()
            if treated_states
        }

    def _options(self, treatment: Treatment) -> Options:
        return self.options.get(treatment.name) or OPTIONS[treatment.name]()

    def _work(self, treatment: Treatment, some: Examples) -> int:
        runs = self._options(treatment).runs
        return treatment.passes * runs * sum(map(len, some.values()))


def _looked_at(examples: Examples) -> dict[str, Sequence[Example]]:
    """Return what is scored: of the retain records a sample, enough to show a model that breaks."""
    return {s: sample(part) if s == "retain" else part for s, part in examples.items()}
