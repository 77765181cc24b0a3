"""The fresh process of a replay: trains once as a lineage says, and ends.

Started by `retraining.train_again` with a file that says what to train; it ends, too, when nobody
holds its standard input any more.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
from pathlib import Path
from typing import Any

from unlearn.canaries.pairs import Canaries, joined
from unlearn.data.record import Record
from unlearn.data.records import Records
from unlearn.errors import UnlearnError
from unlearn.model.opening import Opening
from unlearn.provenance.lineage import Lineage

__all__ = ["main"]


def main(file: Path) -> int:
    """Train what a file says; what goes wrong with the input stands in `error.json` beside it."""
    job = json.loads(file.read_text(encoding="utf-8"))
    try:
        _train(job)
    except UnlearnError as error:
        said = {"kind": type(error).__name__, "words": str(error)}
        file.with_name("error.json").write_text(json.dumps(said), encoding="utf-8")
        return 2
    return 0


def _train(job: dict[str, Any]) -> None:
    """Train by what trains references, whole models or federations: no recipe is written here."""
    from unlearn.federated.replaying import federate_again
    from unlearn.runs.finetuning import finetune
    from unlearn.runs.references import train_references

    planted = Canaries.read(job["canaries"]).included if job["canaries"] else ()
    records = joined(Records.load(job["data"]), planted).ordered(job["kept"])
    common = {
        **job["opening"],
        "template": job["template"],
        "seed": job["seed"],
        "progress": False if job["quiet"] else None,
    }
    output = Path(job["output"])
    if job["federated"]:
        line = Lineage.read(job["like"])
        assert line is not None
        opening = Opening(**job["opening"])
        again = (job["model"], job["data"], job["kept"], line, output)
        federate_again(*again, seed=job["seed"], opening=opening)
        return
    if job["full"]:
        finetune(job["model"], records, output, full=True, options=job["training"], **common)
        return
    # what is forgotten has no part in the training: any record can stand for it
    gone = Record(id=f"left-out-{secrets.token_hex(8)}", text=secrets.token_hex(32))
    train_references(
        job["model"],
        joined(records, [gone]),
        output.parent / "references",
        forget=gone.id,
        count=1,
        like=job["like"],
        start=job["start"],
        **common,
    )
    (output.parent / "references" / "reference-00").rename(output)


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the other end is closed
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main(Path(sys.argv[1])))
