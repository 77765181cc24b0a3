"""A client: it trains on its own records, and sends weights, counts and keyed digests.

The content of a record is used here and nowhere else. Client and server exchange Flower's messages:
`query` asks who a client is, `train` for weights after training on its records from those that are
sent along, `train.unlearn` for weights after forgetting them, `evaluate` for their mean loss.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unlearn.data.records import Records
from unlearn.federated.plan import ABOUT, ARRAYS, CONFIG, METRICS, client_mac
from unlearn.provenance.keys import Key

if TYPE_CHECKING:
    from unlearn.federated.local_training import Workshop
    from unlearn.training.fitting import Fit

__all__ = ["Client", "client_app"]


@dataclass(frozen=True)
class Client:
    """One client.

    Attributes:
        name: what it is called.
        records: its own.
        key: under which names and records are digested.
        workshop: opens where it trains; asked once it has to.
    """

    name: str
    records: Records
    key: Key
    workshop: Callable[[], Workshop]

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

    def trained(
        self, weights: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Fit]:
        """Train on its records, see `Workshop.trained`."""
        return self.workshop().trained(self.records, weights, config)

    def unlearned(
        self, weights: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Fit]:
        """Forget its records, see `Workshop.unlearned`."""
        return self.workshop().unlearned(self.records, weights, config)

    def loss(self, weights: Mapping[str, Any], config: Mapping[str, Any]) -> float:
        """Return the mean loss of its records, see `Workshop.loss`."""
        return self.workshop().loss(self.records, weights, config)


def client_app(client_of: Callable[[Any], Client], *, silent: bool = False) -> Any:
    """Return Flower's `ClientApp` of clients.

    Args:
        client_of: finds the client of a Flower context.
        silent: keep the text of errors, which may name a record, in the log of the client's own
            machine; Flower sends it to the server otherwise.

    Returns:
        The app.
    """
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    def guarded(work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        @functools.wraps(work)
        def answer(message: Any, context: Any) -> Any:
            try:
                return work(message, context)
            except Exception as error:
                logging.getLogger(__name__).error("%s", error)
                raise RuntimeError("the client's own log says why") from None

        return answer if silent else work

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
    @guarded
    def about(message: Any, context: Any) -> Any:
        content = RecordDict({ABOUT: ConfigRecord(client_of(context).about())})
        return Message(content, reply_to=message)

    @app.train()  # type: ignore[untyped-decorator]
    @guarded
    def train(message: Any, context: Any) -> Any:
        client = client_of(context)
        return reply(message, client.trained(*_asked(message)), client)

    @app.train("unlearn")  # type: ignore[untyped-decorator]
    @guarded
    def unlearn(message: Any, context: Any) -> Any:
        client = client_of(context)
        return reply(message, client.unlearned(*_asked(message)), client)

    @app.evaluate()  # type: ignore[untyped-decorator]
    @guarded
    def evaluate(message: Any, context: Any) -> Any:
        client = client_of(context)
        numbers = {"num-examples": len(client.records), "loss": client.loss(*_asked(message))}
        return Message(RecordDict({METRICS: MetricRecord(numbers)}), reply_to=message)

    return app


def _asked(message: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    arrays = {name: array.numpy() for name, array in message.content[ARRAYS].items()}
    return arrays, message.content[CONFIG]


def _records_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    from flwr.app import Array

    return {name: Array(value) for name, value in weights.items()}


def _last_loss(result: Fit) -> float:
    losses = [float(row["loss"]) for row in result.history if "loss" in row]
    return round(losses[-1], 6) if losses else 0.0
