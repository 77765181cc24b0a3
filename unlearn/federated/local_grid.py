"""A simulation: clients and server in one process, by Flower's own messages and apps.

Clients train one after another, in the order of their nodes, so that the same command makes the
same adapter, bit by bit. A client whose training fails answers with an error, as on a network.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from unlearn.errors import UnlearnError
from unlearn.federated.client import Client, client_app

__all__ = ["LocalGrid", "empty_context"]

_FAILED = 1  # as any code: it is only looked at whether there is an error


def empty_context(node: int) -> Any:
    """Return a Flower context without a configuration."""
    return Context(run_id=0, node_id=node, node_config={}, state=RecordDict(), run_config={})


class LocalGrid(Grid):  # type: ignore[misc]
    """Flower's grid over clients in this process.

    Args:
        clients: the clients; their nodes are numbered from 1.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = dict(enumerate(clients, 1))
        self._app = client_app(lambda context: self._clients[context.node_id])
        self._replies: dict[str, Any] = {}
        # without a run, messages have nothing else to be stamped with
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 0
        self.failures: list[str] = []

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """There is none."""
        raise NotImplementedError("a simulation has no run")

    def create_message(
        self, content: Any, message_type: str, dst_node_id: int, group_id: str, ttl: Any = None
    ) -> Any:
        """Return a message, as Flower's older interface has it."""
        return Message(content, message_type=message_type, dst_node_id=dst_node_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of all clients."""
        return list(self._clients)

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Let each client answer at once; return names of the answers."""
        names = []
        for message in messages:
            name = uuid.uuid4().hex
            self._replies[name] = self._answer(message)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Return answers by their names."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        """Return the answers to messages."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Any) -> Any:
        node = message.metadata.dst_node_id
        try:
            reply = self._app(message, empty_context(node))
        except UnlearnError as error:
            self.failures.append(str(error))
            reply = Message(Error(code=_FAILED, reason=str(error)), reply_to=message)
        return reply
