"""The server: it sends weights to clients, averages what comes back, and keeps every round.

It runs on Flower's `FedAvg`, which drives the rounds and averages factors. What is added: who takes
part is decided beforehand, answers are taken in the order of keyed names, so that sums of numbers
round alike, and each round is on disk before the next one begins.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from unlearn.errors import TrainingError
from unlearn.federated.aggregation import (
    Weights,
    average,
    average_products,
    noisy_average,
    rescaled,
    step,
)
from unlearn.federated.history import Part, Round, Rounds
from unlearn.federated.plan import ABOUT, ARRAYS, CONFIG, METRICS, Plan, client_seed
from unlearn.training.private.randomness import gaussian

__all__ = ["Federation", "losses_of", "server_app"]

Told = Callable[[int, int], None]


def server_app(plan: Plan, rounds: Rounds, told: Told | None = None, patience: float = 0.0) -> Any:
    """Return Flower's `ServerApp` that runs the rounds of a plan which are not there yet.

    Args:
        plan: what to do.
        rounds: where they are kept; round 0 is there.
        told: called with (rounds done, rounds planned).
        patience: seconds in which clients may report when it begins.

    Returns:
        The app; called with a grid and a context it raises TrainingError where a round ends with
        too few answers.
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        done, planned = rounds.last(), len(plan.schedule)
        federation = Federation(plan, rounds, done, told)
        still = {name for each in plan.schedule[done:] for name in each}
        federation.roll.call(grid, still, patience, needed=plan.noise is None)
        if told:
            told(done, planned)
        if done < planned:
            federation.start(
                grid,
                _sent(rounds.weights(done)),
                num_rounds=planned - done,
                timeout=plan.timeout,
            )

    return app


class Roll:
    """Which node is which client, as far as they were asked.

    Attributes:
        names: keyed names by node.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}

    def call(
        self, grid: Any, wanted: Collection[str], patience: float = 0.0, *, needed: bool = True
    ) -> None:
        """Ask nodes that are not known yet who they are.

        Args:
            grid: Flower's.
            wanted: keyed names of clients that should be there.
            patience: seconds to wait until all of them are.
            needed: whether to go on only if one of them is.

        Raises:
            TrainingError: if none is, and one is needed.
        """
        end = time.monotonic() + patience
        while True:
            strangers = sorted(set(grid.get_node_ids()) - set(self.names))
            asked = [_message(node, "query", RecordDict({})) for node in strangers]
            for answer in _answers(grid.send_and_receive(asked, timeout=max(patience, 30.0))):
                self.names[answer.metadata.src_node_id] = answer.content[ABOUT]["client"]
            if set(wanted) <= set(self.names.values()) or time.monotonic() > end:
                break
            time.sleep(0.2)
        if needed and wanted and not set(wanted) & set(self.names.values()):
            raise TrainingError("no client of the federation reported to the server")

    def nodes(self, grid: Any) -> dict[str, int]:
        """Return the nodes that are there by keyed name."""
        online = set(grid.get_node_ids())
        return {name: node for node, name in self.names.items() if node in online}


class Federation(FedAvg):  # type: ignore[misc]
    """Flower's FedAvg over given clients in given rounds.

    Args:
        plan: what to do.
        rounds: where rounds are kept.
        done: how many of them are there.
        told: called with (rounds done, rounds planned).
    """

    def __init__(self, plan: Plan, rounds: Rounds, done: int = 0, told: Told | None = None) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1, arrayrecord_key=ARRAYS
        )
        self._plan, self._rounds, self._done, self._told = plan, rounds, done, told
        self.roll = Roll()
        self._before: dict[str, Any] = {}
        self._awaited: list[str] = []

    def configure_train(
        self, server_round: int, arrays: Any, config: Any, grid: Any
    ) -> Iterable[Any]:
        """Write to the clients of a round."""
        number = self._done + server_round
        self._awaited = sorted(self._plan.schedule[number - 1])
        self._before = _received(arrays)
        self.roll.call(grid, self._awaited, needed=self._plan.noise is None)
        nodes = self.roll.nodes(grid)
        what = "train.unlearn" if number == 1 and self._plan.unlearns else "train"
        return [
            _message(
                nodes[name],
                what,
                RecordDict({ARRAYS: arrays, CONFIG: task_config(self._plan, name, number)}),
            )
            for name in self._awaited
            if name in nodes
        ]

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """Average what came back, in the order of keyed names, and keep the round."""
        number, heard = self._done + server_round, list(replies)
        valid = {self.roll.names[each.metadata.src_node_id]: each for each in _answers(heard)}
        ordered = [(name, valid[name]) for name in self._awaited if name in valid]
        lost = self._lost(heard, valid)
        enough = self._enough()
        if self._awaited and len(ordered) < enough:
            why = "; ".join(dict.fromkeys(lost.values()))
            raise TrainingError(
                f"round {number}: {len(ordered)} of {len(self._awaited)} clients answered, and "
                f"{enough} must ({why}); the {number - 1} round(s) before it are kept, and the "
                "same command goes on"
            )
        sent = {name: _received(reply.content[ARRAYS]) for name, reply in ordered}
        parts = [_part(name, reply.content[METRICS]) for name, reply in ordered]
        weights, rank_lost = self._averaged(number, ordered, sent, parts)
        done = Round(number=number, parts=parts, lost=lost, rank_lost=round(rank_lost, 6))
        # with differential privacy nothing may be kept that has no noise
        self._rounds.write(done, weights, {} if self._plan.noise else sent)
        if self._told:
            self._told(number, len(self._plan.schedule))
        return _sent(weights), None

    def _enough(self) -> int:
        """Return how many must answer for a round to count.

        With differential privacy none: that a round ended, or did not, would tell who answered.
        """
        if self._plan.noise is not None:
            return 0
        return len(self._awaited) if self._plan.whole else max(self._plan.least, 1)

    def _averaged(
        self,
        number: int,
        ordered: Sequence[tuple[str, Any]],
        sent: Mapping[str, Weights],
        parts: Sequence[Part],
    ) -> tuple[dict[str, Any], float]:
        """Return the weights after a round, and what the rank had no room for."""
        plan, before = self._plan, self._before
        if plan.noise is not None:
            mechanism = plan.noise
            size = sum(value.size for value in before.values())
            normal = gaussian(_noise_key(mechanism.secret, sent), number, size)
            updates = [step(before, own) for own in sent.values()]
            return noisy_average(
                before,
                updates,
                mechanism.multiplier * mechanism.clip * normal,
                clip=mechanism.clip,
                expected=mechanism.expected,
            ), 0.0
        if not sent:
            return before, 0.0
        total = sum(part.records for part in parts)
        shares = [part.records / total for part in parts]
        if plan.task == "erase" and plan.lengths is not None:
            sent = {
                name: _moved(before, rescaled(step(before, own), plan.lengths[str(number)][name]))
                for name, own in sent.items()
            }
            return average([*sent.values()], shares), 0.0
        if plan.aggregate == "product":
            return average_products([*sent.values()], shares)
        # Flower averages; it takes the answers in the order in which it is given them
        arrays, _ = super().aggregate_train(number, [reply for _, reply in ordered])
        return _received(arrays), 0.0

    def _lost(self, heard: Sequence[Any], valid: Mapping[str, Any]) -> dict[str, str]:
        """Return who was to take part and did not, and why; no text of an error is kept."""
        failed = {
            self.roll.names[each.metadata.src_node_id]: "its training failed"
            for each in heard
            if each.has_error() and each.metadata.src_node_id in self.roll.names
        }
        return {
            name: failed.get(name, "no answer came in time")
            for name in self._awaited
            if name not in valid
        }


def losses_of(
    grid: Any, plan: Plan, weights: Weights, names: Sequence[str]
) -> dict[str, tuple[int, float]]:
    """Ask clients for the mean loss of their records under some weights.

    Args:
        grid: Flower's.
        plan: what adapter and template.
        weights: of the adapter.
        names: keyed names of the clients to ask.

    Returns:
        (records, loss in nats a token) of those that answered.
    """
    roll = Roll()
    roll.call(grid, names)
    nodes = roll.nodes(grid)
    arrays = _sent(weights)
    asked = [
        _message(
            nodes[name],
            "evaluate",
            RecordDict({ARRAYS: arrays, CONFIG: task_config(plan, name, 0)}),
        )
        for name in sorted(names)
        if name in nodes
    ]
    answers = _answers(grid.send_and_receive(asked, timeout=plan.timeout))
    numbers = {roll.names[a.metadata.src_node_id]: a.content[METRICS] for a in answers}
    return {n: (int(m["num-examples"]), float(m["loss"])) for n, m in numbers.items()}


def task_config(plan: Plan, name: str, number: int) -> Any:
    """Return what a client is told beside the weights: how to train, and its seed."""
    return ConfigRecord(
        {
            "base": plan.base,
            "lora": json.dumps(dict(plan.lora)),
            "training": json.dumps(dict(plan.training)),
            "template": plan.template,
            "seed": client_seed(name, number, plan.seed),
            "private": plan.noise is not None,
        }
    )


def _noise_key(secret: str, answered: Iterable[str]) -> bytes:
    """Return the key of a round's noise, another one for other clients.

    Two runs of which one lost a client must not share noise: their difference would be its update.
    """
    names = json.dumps(sorted(answered))
    return hashlib.sha256(bytes.fromhex(secret) + names.encode()).digest()


def _message(node: int, kind: str, content: Any) -> Any:
    return Message(content, message_type=kind, dst_node_id=node)


def _answers(replies: Iterable[Any]) -> list[Any]:
    return [each for each in replies if not each.has_error()]


def _sent(weights: Weights) -> Any:
    return ArrayRecord({name: Array(np.ascontiguousarray(v)) for name, v in weights.items()})


def _received(arrays: Any) -> dict[str, Any]:
    return {name: array.numpy() for name, array in arrays.items()}


def _moved(before: Weights, update: Weights) -> dict[str, Any]:
    return {name: value + update[name] for name, value in before.items()}


def _part(name: str, numbers: MetricRecord) -> Part:
    return Part(
        client=name,
        records=int(numbers["num-examples"]),
        steps=int(numbers.get("steps", 0)),
        tokens=int(numbers.get("tokens", 0)),
        seconds=float(numbers.get("seconds", 0.0)),
        loss=float(numbers["loss"]) if "loss" in numbers else None,
    )
