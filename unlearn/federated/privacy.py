"""Differential privacy of clients: what noise on averages of clipped updates promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unlearn.errors import OptionError
from unlearn.federated.settings import Settings
from unlearn.provenance.lineage import Privacy
from unlearn.training.private.accounting import (
    ACCOUNTANT,
    check_opacus,
    noise_multiplier,
    spent,
)
from unlearn.training.private.options import PrivacyOptions, delta_for, privacy_options

__all__ = ["PrivateFederation", "private_federation"]


@dataclass(frozen=True)
class PrivateFederation:
    """A federation with differential privacy of clients, decided before any trains.

    Each round is one step of the Poisson-subsampled Gaussian mechanism (DP-FedAvg, 1710.06963): a
    client takes part with probability q, its update is clipped to norm C, and the sum gets noise
    of standard deviation σ·C before it is divided by q·clients.

    Attributes:
        privacy: the promise.
        delta: δ.
        clients: how many there are.
        rate: q.
        rounds: how many.
        noise: σ.
    """

    privacy: PrivacyOptions
    delta: float
    clients: int
    rate: float
    rounds: int
    noise: float

    @property
    def expected(self) -> float:
        """Clients expected in a round."""
        return self.rate * self.clients

    @property
    def mechanism(self) -> dict[str, float]:
        """What the server does to updates."""
        return {
            "clip": self.privacy.clip,
            "multiplier": self.noise,
            "expected": self.expected,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What `finetuned_with` holds of the promise."""
        return self.privacy.model_dump() | {"delta": self.delta}

    @property
    def claim(self) -> Privacy:
        """What the lineage claims once all rounds are done."""
        return Privacy(
            epsilon=self.privacy.epsilon,
            delta=self.delta,
            unit="client",
            units=self.clients,
            accountant=ACCOUNTANT,
            accounted=spent(self.noise, self.rate, self.rounds, self.delta),
            noise_multiplier=self.noise,
            clip=self.privacy.clip,
            expected_batch=self.expected,
            sample_rate=self.rate,
            steps=self.rounds,
        )

    @property
    def note(self) -> str:
        """Say what the promise takes, and what it is not about."""
        return (
            f"(ε, δ) = ({self.privacy.epsilon:g}, {self.delta:.2g}) for adding or removing one "
            f"client of {self.clients}: noise of {self.noise:.3g} times the clipping norm "
            f"{self.privacy.clip:g} in each of {self.rounds} rounds. It is about the weights; "
            "lineage.json and the folder `rounds` are not covered, and the server is trusted with "
            "what each client sends"
        )


def private_federation(
    asked: Mapping[str, Any], given: Mapping[str, Any], settings: Settings, clients: int
) -> PrivateFederation | None:
    """Decide on noise from public numbers: ε, δ, clients, the probability to take part, rounds.

    Args:
        asked: what `--dp` says.
        given: options that the user named.
        settings: how the federation trains.
        clients: how many there are.

    Returns:
        The private federation; None without `--dp`.

    Raises:
        OptionError: if the promise cannot be kept with these options.
    """
    promise = privacy_options(asked, ("client",))
    if promise is None:
        return None
    averaging = settings.averaging
    if averaging.aggregate == "product":
        raise OptionError("--dp and -o aggregate=product: noise is added to factors: leave it out")
    if given.get("least") is not None:
        raise OptionError("--dp and -o least: a round that ends by who answers would tell of them")
    if averaging.fraction >= 1:
        raise OptionError(
            "--dp: each client takes part in a round by a coin that nobody knows: give its "
            "probability with -o fraction=, below 1"
        )
    check_opacus()
    delta = delta_for(promise, clients)
    noise = noise_multiplier(promise.epsilon, delta, averaging.fraction, settings.rounds)
    return PrivateFederation(promise, delta, clients, averaging.fraction, settings.rounds, noise)
