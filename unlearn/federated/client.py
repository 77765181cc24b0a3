"""A client: it trains on its own records, and sends weights, counts and keyed digests.

The content of a record is used here and nowhere else. Client and server exchange Flower's messages:
`query` asks who a client is, `train` for weights after training on its records from those that are
sent along, `train.unlearn` for weights after forgetting them, `evaluate` for their mean loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unlearn.data.records import Records
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import ModelError
from unlearn.federated.plan import client_mac
from unlearn.losses import NLL, NPO
from unlearn.model.opening import Opening
from unlearn.model.state import ModelState, new_adapter
from unlearn.provenance.keys import Key
from unlearn.runs.saving import encode_records
from unlearn.training.fitting import Fit, fit, sample
from unlearn.training.levels import mean_loss
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.stages import put_weights, trained_weights

if TYPE_CHECKING:
    from unlearn.federated.aggregation import Weights

__all__ = [
    "ABOUT",
    "ARRAYS",
    "CONFIG",
    "METRICS",
    "Client",
    "Workshop",
    "client_app",
    "set_weights",
]

ABOUT, ARRAYS, CONFIG, METRICS = "about", "arrays", "config", "metrics"
"""Names of the parts of messages."""


@dataclass
class Workshop:
    """The base on which clients train; those of one process share it, one after another.

    Attributes:
        model: the base, a folder or hub name.
        opening: how it is opened.
    """

    model: str
    opening: Opening
    _state: ModelState | None = field(default=None, repr=False)
    _shape: str = ""

    def state(self, lora: Mapping[str, Any], base: str) -> ModelState:
        """Return the base with an adapter that trains.

        Args:
            lora: shape of the adapter.
            base: digest that the base must have.

        Returns:
            The state; its weights are whatever was put there last.

        Raises:
            ModelError: if the base is another.
        """
        shape = json.dumps(lora, sort_keys=True)
        if self._state is None or shape != self._shape:
            opened = self.opening.open(self.model)
            if opened.base_digest() != base:
                raise ModelError(f"{self.model} is not the base of the federation: weights differ")
            self._state, self._shape = new_adapter(opened, dict(lora), 0), shape
        return self._state


@dataclass(frozen=True)
class Client:
    """One client.

    Attributes:
        name: what it is called.
        records: its own.
        key: under which names and records are digested.
        workshop: where it trains.
    """

    name: str
    records: Records
    key: Key
    workshop: Workshop

    @property
    def mac(self) -> str:
        """Its keyed name."""
        return client_mac(self.name, self.key)

    def about(self) -> dict[str, Any]:
        """Return who it is, in digests and counts."""
        return {
            "client": self.mac,
            "key": self.key.id,
            "records": len(self.records),
            "digests": [self.key.digest(record) for record in self.records],
        }

    def trained(self, weights: Weights, config: Mapping[str, Any]) -> tuple[dict[str, Any], Fit]:
        """Train on its records from some weights.

        Args:
            weights: to begin with.
            config: of the message: `lora`, `base`, `template`, `training`, `seed`.

        Returns:
            (weights, what training did).
        """
        state, examples, training = self._prepared(weights, config)
        done = fit(
            state, Objective(retain=NLL()), training, retain=examples, seed=int(config["seed"])
        )
        return _arrays(state), done

    def unlearned(self, weights: Weights, config: Mapping[str, Any]) -> tuple[dict[str, Any], Fit]:
        """Forget its records by negative preference optimisation, from some weights.

        Nothing that others know is at hand here, so that there is no term for what is kept.

        Args:
            weights: to begin with.
            config: of the message, as for `trained`.

        Returns:
            (weights, what training did).
        """
        state, examples, training = self._prepared(weights, config)
        done = fit(
            state, Objective(forget=NPO()), training, forget=examples, seed=int(config["seed"])
        )
        return _arrays(state), done

    def loss(self, weights: Weights, config: Mapping[str, Any]) -> float:
        """Return the mean loss of at most 64 of its records under some weights, nats a token."""
        state, examples, _ = self._prepared(weights, config)
        return mean_loss(state, sample(examples))

    def _prepared(
        self, weights: Weights, config: Mapping[str, Any]
    ) -> tuple[ModelState, list[Example], TrainingOptions]:
        state = self.workshop.state(json.loads(config["lora"]), config["base"])
        set_weights(state, weights)
        training = TrainingOptions(**json.loads(config["training"]))
        template = choose_template(config["template"], state.tokenizer, self.records)
        return state, encode_records(self.records, state, template, training), training


def client_app(client_of: Callable[[Any], Client]) -> Any:
    """Return Flower's `ClientApp` of clients.

    Args:
        client_of: finds the client of a Flower context.

    Returns:
        The app.
    """
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    def reply(message: Any, done: tuple[dict[str, Any], Fit], client: Client) -> Any:
        weights, result = done
        numbers: dict[str, Any] = {"num-examples": len(client.records)}
        if not message.content[CONFIG]["private"]:
            numbers |= {
                "steps": result.steps,
                "tokens": int(result.tokens),
                "seconds": round(result.seconds, 3),
                "loss": _last_loss(result),
            }
        content = {ARRAYS: ArrayRecord(_records_of(weights)), METRICS: MetricRecord(numbers)}
        return Message(RecordDict(content), reply_to=message)

    @app.query()  # type: ignore[untyped-decorator]
    def about(message: Any, context: Any) -> Any:
        content = RecordDict({ABOUT: ConfigRecord(client_of(context).about())})
        return Message(content, reply_to=message)

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Any, context: Any) -> Any:
        client = client_of(context)
        return reply(message, client.trained(*_asked(message)), client)

    @app.train("unlearn")  # type: ignore[untyped-decorator]
    def unlearn(message: Any, context: Any) -> Any:
        client = client_of(context)
        return reply(message, client.unlearned(*_asked(message)), client)

    @app.evaluate()  # type: ignore[untyped-decorator]
    def evaluate(message: Any, context: Any) -> Any:
        client = client_of(context)
        numbers = {"num-examples": len(client.records), "loss": client.loss(*_asked(message))}
        return Message(RecordDict({METRICS: MetricRecord(numbers)}), reply_to=message)

    return app


def set_weights(state: ModelState, weights: Weights) -> None:
    """Put weights as they travel into a state.

    Args:
        state: with an adapter that trains.
        weights: float32 by name.

    Raises:
        ModelError: if they are of another adapter.
    """
    own = {n: p.shape for n, p in state.model.named_parameters() if p.requires_grad}
    given = {name: torch.Size(value.shape) for name, value in weights.items()}
    if own != given:
        odd = sorted(name for name in {*own, *given} if own.get(name) != given.get(name))
        raise ModelError(f"the weights of the federation do not fit the adapter: {odd[0]}")
    put_weights({name: torch.tensor(value) for name, value in weights.items()}, state)


def _asked(message: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    arrays = {name: array.numpy() for name, array in message.content[ARRAYS].items()}
    return arrays, message.content[CONFIG]


def _arrays(state: ModelState) -> dict[str, Any]:
    return {
        name: np.ascontiguousarray(value.cpu().float().numpy())
        for name, value in trained_weights(state).items()
    }


def _records_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    from flwr.app import Array

    return {name: Array(value) for name, value in weights.items()}


def _last_loss(result: Fit) -> float:
    losses = [float(row["loss"]) for row in result.history if "loss" in row]
    return round(losses[-1], 6) if losses else 0.0
