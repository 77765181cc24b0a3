"""What a server does, in numbers and digests: it holds no record, and no name of a client."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from unlearn.config import StrictModel
from unlearn.provenance.keys import Key

__all__ = [
    "ABOUT",
    "ARRAYS",
    "CONFIG",
    "JOB",
    "METRICS",
    "Aggregate",
    "Noise",
    "Plan",
    "Task",
    "client_mac",
    "client_seed",
    "takes_part",
]

ABOUT, ARRAYS, CONFIG, METRICS = "about", "arrays", "config", "metrics"
"""Names of the parts of messages."""

JOB = "job"
"""Name under which a process of its own is told of its file."""


Aggregate = Literal["factors", "product"]
Task = Literal["train", "erase"]

_SEEDS = 1 << 31


def client_mac(name: str, key: Key) -> str:
    """Return what a client is called wherever its name must not stand: HMAC-SHA256(key, name)."""
    return key.mac(b"client of a federation\0" + name.encode())


def takes_part(client: str, number: int, seed: int | str, fraction: float) -> bool:
    """Say whether a client takes part in a round: a coin of its own, whoever else is there.

    So a federation without a client is, round for round, what it would have been, had the client
    never joined. The coin is SHA-256 of seed, round and the keyed name: nobody without the key can
    foretell it.

    Args:
        client: keyed name.
        number: of the round; the first is 1.
        seed: that the user chose, or a secret made of it.
        fraction: probability, up to 1.

    Returns:
        Whether it does.
    """
    return _digest("takes part", seed, number, client) < fraction * (1 << 64)


def client_seed(client: str, number: int, seed: int) -> int:
    """Return the seed of a client's training in a round, below 2³¹."""
    return _digest("seed", seed, number, client) % _SEEDS


def _digest(what: str, seed: int | str, number: int, client: str) -> int:
    text = f"{what}\0{seed}\0{number}\0{client}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Noise(StrictModel):
    """The Gaussian mechanism of each round.

    Attributes:
        clip: C, the norm that the update of a client has at most.
        multiplier: σ, standard deviation over C.
        expected: m, clients expected in a round.
        secret: 32 bytes as hexadecimal digits, under which noise is drawn.
    """

    clip: float
    multiplier: float
    expected: float
    secret: str


class Plan(StrictModel):
    """Rounds to run, from weights that are there.

    Attributes:
        base: digest of the base's weights, which every client must have.
        lora: shape of the adapter.
        training: of a client in a round, as `TrainingOptions` has it.
        template: how records are written.
        seed: that the user chose.
        aggregate: what is averaged.
        schedule: keyed names of the clients that take part, by round; the first round is 1.
        task: plain training, or a calibration of saved rounds.
        unlearns: whether the clients of the first round forget their own records.
        noise: of differential privacy, if any.
        lengths: norms of saved updates by round and client, to which calibrations are stretched.
        timeout: seconds that a round waits for its clients.
        least: clients that must answer for a round to count.
        whole: whether all of them must, as where a round is repeated to the bit.
    """

    base: str
    lora: Mapping[str, Any]
    training: Mapping[str, Any]
    template: str
    seed: int
    aggregate: Aggregate
    schedule: Sequence[Sequence[str]]
    task: Task = "train"
    unlearns: bool = False
    noise: Noise | None = None
    lengths: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    timeout: float = 3600.0
    least: int = 1
    whole: bool = False
