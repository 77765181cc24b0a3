"""The app that Flower loads in a client's process: it finds its work in a file of its machine.

The file names the client, its records, the base and how to open it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unlearn.data.records import Records
from unlearn.federated.client import Client, client_app
from unlearn.federated.members import in_order
from unlearn.federated.plan import JOB
from unlearn.model.opening import Opening
from unlearn.provenance.keys import Key
from unlearn.strict_json import read_json_file

if TYPE_CHECKING:
    from unlearn.federated.local_training import Workshop

__all__ = ["client"]


def _client_of(context: Any) -> Client:
    job = read_json_file(context.node_config[JOB])

    def workshop() -> Workshop:
        from unlearn.federated.local_training import Workshop

        return Workshop(job["model"], Opening(**job["opening"]))

    key = Key.load()
    return Client(job["client"], in_order(Records.load(job["data"]), key), key, workshop)


client = client_app(_client_of, silent=True)
