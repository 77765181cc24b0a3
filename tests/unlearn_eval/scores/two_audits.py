"""Run by `test_two_processes_equal_one`: audits in two processes, and what goes wrong in one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock


def main(given: dict[str, Any], folder: Path) -> None:
    from transformers import LlamaForCausalLM

    import unlearn_eval.scores.model_scores as scoring
    from unlearn.errors import DataError, UnlearnError
    from unlearn.model.lm_head import Head
    from unlearn_eval import run_audit
    from unlearn_eval.robustness.treatments import quantize

    rank = int(os.environ["RANK"])
    run_audit(**given, output=folder / "two")

    told: dict[str, object] = {}
    short = given | {"generate": 0, "also": [], "robustness": []}
    rows: list[int] = []
    inner = LlamaForCausalLM.forward

    def counting(self, *args, **inputs):
        rows.append(len(inputs["input_ids"]))
        return inner(self, *args, **inputs)

    with (
        mock.patch.object(LlamaForCausalLM, "forward", counting),
        mock.patch.object(Head, "_check"),
    ):
        passes = []
        for kept in (False, True):  # the first audit of all left its numbers in the cache
            rows.clear()
            run_audit(**short, cache=kept)
            passes.append(sum(rows))
    told["passes"] = passes
    told["shares"] = [len(range(rank, size, 2)) for size in (3, 9, 8)]

    score = scoring.score_examples

    def broken(model, head, examples, **options):
        if any(example.id == "r3" for example in examples):
            raise DataError("record 'r3' is wrong")
        return score(model, head, examples, **options)

    with mock.patch.object(scoring, "score_examples", broken):
        try:
            run_audit(**short, cache=False)
        except DataError as error:
            told["wrong record"] = str(error)

    weights = quantize.rewritten

    def only_here(*args):
        if rank == 1:
            raise UnlearnError("only here")
        return weights(*args)

    with mock.patch.object(quantize, "rewritten", only_here):
        treated = run_audit(**(short | {"robustness": ["int8", "scale"]}), cache=False)
    refused = treated.get("after", "forget", "robustness.quantize", "int8", deployment="int8")
    told["treatment"] = refused.note
    told["next treatment"] = sum(row.deployment.startswith("scale=") for row in treated.rows)

    def write() -> None:
        (folder / f"told{rank}.json").write_text(json.dumps(told))

    write()

    def lost(*args, **options):
        os._exit(0)

    with mock.patch.object(scoring, "score_examples", lost if rank == 1 else score):
        try:
            run_audit(**short, cache=False)
        except UnlearnError as error:
            told["lost"] = str(error)
    write()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
