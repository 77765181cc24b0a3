"""Training with differential privacy: units, the mechanism for the promise, and the claim."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.data.record import Record
from unlearn.data.tokenization import Example
from unlearn.errors import DataError, OptionError
from unlearn.model.state import ModelState
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Privacy
from unlearn.training.fitting import Fit
from unlearn.training.options import TrainingOptions, total_steps
from unlearn.training.private.accounting import ACCOUNTANT, noise_multiplier, spent
from unlearn.training.private.loop import Mechanism, fit_privately
from unlearn.training.private.options import (
    PrivacyOptions,
    delta_for,
)

__all__ = ["PrivateTraining", "units_of"]


@dataclass(frozen=True)
class PrivateTraining:
    """A training with differential privacy, decided before a gradient is computed.

    Attributes:
        privacy: the promise.
        training: how the optimizer moves.
        delta: δ.
        groups: positions of the records of each unit.
        steps: of the whole training.
        noise: σ.
    """

    privacy: PrivacyOptions
    training: TrainingOptions
    delta: float
    groups: Sequence[Sequence[int]]
    steps: int
    noise: float

    @classmethod
    def of(
        cls, privacy: PrivacyOptions, training: TrainingOptions, groups: Sequence[Sequence[int]]
    ) -> PrivateTraining:
        """Decide on steps and noise from public numbers: ε, δ, units, batch size and epochs.

        Args:
            privacy: the promise.
            training: options; `batch_size` is the number of units expected in a step.
            groups: positions of the records of each unit, from `units_of`.

        Returns:
            The training.

        Raises:
            OptionError: if δ is too large, a step expects all units, or no noise is enough.
        """
        units, expected = len(groups), training.batch_size
        delta = delta_for(privacy, units)
        if expected >= units:
            raise OptionError(
                f"--dp: batch_size {expected} is the number of units expected in a step, and there "
                f"are {units} {privacy.unit}s: it must be smaller"
            )
        steps = total_steps(training, units)
        noise = noise_multiplier(privacy.epsilon, delta, expected / units, steps)
        return cls(privacy, training, delta, groups, steps, noise)

    def fit(
        self,
        state: ModelState,
        examples: Sequence[Example],
        facts: Mapping[str, Any],
        key: Key,
        *,
        seed: int,
        checkpoints: Path | None,
        progress: Callable[[int, int], None] | None,
    ) -> Fit:
        """Train a new adapter.

        Sampling and noise come from the user's key and everything that decides the weights: the
        same command makes the same adapter, and other records, be it by one, have other noise. With
        the same noise, the difference of two adapters would show what noise is to hide.

        Args:
            state: with the new adapter.
            examples: the records, encoded, in their order.
            facts: the signature of the run.
            key: the user's.
            seed: of dropout.
            checkpoints: their folder, if any are kept.
            progress: called with (steps done, steps planned).

        Returns:
            What was done.
        """
        text = json.dumps(facts, sort_keys=True)
        secret = hashlib.sha256(key.mac(b"noise of private training\0" + text.encode()).encode())
        mechanism = Mechanism(
            units=len(self.groups),
            expected=self.training.batch_size,
            noise=self.noise,
            clip=self.privacy.clip,
            steps=self.steps,
            secret=secret.digest(),
        )
        return fit_privately(
            state,
            [[examples[i] for i in group] for group in self.groups],
            self.training,
            mechanism,
            seed=seed,
            checkpoints=checkpoints,
            progress=progress,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What `finetuned_with` holds of the promise."""
        return self.privacy.model_dump() | {"delta": self.delta}

    @property
    def claim(self) -> Privacy:
        """What the lineage claims once all steps are done."""
        units, expected = len(self.groups), self.training.batch_size
        return Privacy(
            epsilon=self.privacy.epsilon,
            delta=self.delta,
            unit=self.privacy.unit,
            units=units,
            accountant=ACCOUNTANT,
            accounted=spent(self.noise, expected / units, self.steps, self.delta),
            noise_multiplier=self.noise,
            clip=self.privacy.clip,
            expected_batch=expected,
            sample_rate=expected / units,
            steps=self.steps,
        )

    @property
    def note(self) -> str:
        """Say what the promise takes, and what it is not about."""
        return (
            f"(ε, δ) = ({self.privacy.epsilon:g}, {self.delta:.2g}) for adding or removing one "
            f"{self.privacy.unit} of {len(self.groups)}: noise of {self.noise:.3g} times the "
            f"clipping norm {self.privacy.clip:g} in each of {self.steps} steps. It is about the "
            "weights; lineage.json, checkpoints and the loss shown here are not covered"
        )


def units_of(
    privacy: PrivacyOptions, records: Sequence[Record], planted: int = 0
) -> list[list[int]]:
    """Return the positions of the records of each unit.

    Args:
        privacy: says what a unit is.
        records: to train on, canaries last.
        planted: how many of them are canaries; each is a unit of its own.

    Returns:
        One list a unit.

    Raises:
        DataError: if a record names no person, and persons are the units.
    """
    own = len(records) - planted
    if privacy.unit == "record":
        return [[position] for position in range(len(records))]
    groups: dict[str, list[int]] = {}
    nameless = []
    for position, record in enumerate(records):
        if position >= own:
            break
        if record.subject is None:
            nameless.append(record.id)
        else:
            groups.setdefault(record.subject, []).append(position)
    if nameless:
        raise DataError(
            f"--dp unit=person: {len(nameless)} record(s) name no subject, first {nameless[0]!r}: "
            "add a field `subject` to each, or choose unit=record"
        )
    return [*groups.values(), *([position] for position in range(own, len(records)))]
