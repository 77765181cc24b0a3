"""`unlearn federate`."""

from __future__ import annotations

from dataclasses import replace

from unlearn.federated.options import FederateOptions

__all__ = ["federate"]


def federate(options: FederateOptions) -> None:
    """Train a LoRA adapter over clients whose records stay with them, on Flower.

    In each round the clients train on their own records, and a server averages the adapters that
    they send. The result is a plain PEFT folder with lineage.json and its rounds, from which
    `unlearn forget --forget client:NAME` takes a client out again. Takes the extra `federated`.

    With -o, beside options of training and of the adapter, where epochs counts passes of a client
    in a round: aggregate=factors|product, fraction= (who takes part), timeout=, least=.

    Example: unlearn federate --model BASE --data records.jsonl --client-by tenant --rounds 5
    --output federated -o epochs=2
    """
    from unlearn.apps.cli.screen import announce, progress_bar, show_result
    from unlearn.federated.federating import run_federate

    with progress_bar("federation", "rounds") as progress:
        show_result(run_federate(replace(options, announce=announce, progress=progress)))
