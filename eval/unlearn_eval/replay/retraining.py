"""Train again, in a fresh process with the environment of the lineage."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.errors import ModelError, TrainingError, UnlearnError
from unlearn.model.opening import Opening
from unlearn.processes import if_interrupted
from unlearn.provenance.environment import fresh_environment
from unlearn.provenance.lineage import FILE_NAME, Lineage
from unlearn.training.options import FORGET_ONLY

__all__ = ["Again", "opening_of", "train_again"]

_PATIENCE = 10.0
"""Seconds in which the process may clean up."""

_ELSEWHERE = 1_000_003
"""Added to the seed in the copy of the lineage: references never take the seed of what they are
like, and this one is to take it."""


@dataclass(frozen=True)
class Again:
    """What is trained again.

    Attributes:
        line: the lineage.
        adapter: its folder.
        model: folder of the base.
        data: the file of records.
        kept: positions of those to train on.
        opening: how the base is opened.
        quiet: show no progress.
        canaries: file of those that were planted beside the records.
        start: folder of the adapter that training began with.
    """

    line: Lineage
    adapter: Path
    model: Path
    data: str
    kept: Sequence[int]
    opening: Opening
    quiet: bool = False
    canaries: str | None = None
    start: Path | None = None


def opening_of(line: Lineage, chosen: Opening) -> Opening:
    """Return how to open the base: as the lineage says, where nothing else was chosen."""
    there = line.environment
    values = chosen.as_dict()
    if chosen.dtype == "auto" and there.get("number type"):
        values["dtype"] = there["number type"]
    if chosen.device is None and there.get("device") == "cpu":
        values["device"] = "cpu"
    values["load_in_4bit"] = chosen.load_in_4bit or bool(there.get("4-bit"))
    return Opening(**values)


def train_again(again: Again, output: Path, seed: int) -> Lineage:
    """Train in a fresh process into a folder that is not there yet.

    Args:
        again: what.
        output: where to; files of the process lie beside it.
        seed: of weights and order.

    Returns:
        The lineage of the result.

    Raises:
        ModelError: if such an adapter cannot be trained, or does not come out with its tensors.
        UnlearnError: if the input cannot be used.
        TrainingError: if the process ended unexpectedly.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    line = again.line
    job = {
        "model": str(again.model),
        "data": again.data,
        "kept": list(again.kept),
        "like": str(_shape(again, output.with_name("like"))),
        "full": line.kind == "full",
        "federated": line.federation is not None,
        "training": _training(line),
        "template": line.template,
        "seed": seed,
        "opening": again.opening.as_dict(),
        "quiet": again.quiet,
        "canaries": again.canaries,
        "start": None if again.start is None else str(again.start),
        "output": str(output),
    }
    file = output.with_name("job.json")
    file.write_text(json.dumps(job), encoding="utf-8")
    code = _run(file, fresh_environment(line.environment))
    error = output.with_name("error.json")
    if error.is_file():
        said = json.loads(error.read_text(encoding="utf-8"))
        raise (ModelError if said["kind"] == "ModelError" else UnlearnError)(said["words"])
    made = Lineage.read(output)
    if code or made is None:
        raise TrainingError(f"the process that trains again ended unexpectedly (exit code {code})")
    return made


def _shape(again: Again, folder: Path) -> Path:
    """Return a folder that looks like the adapter, with its recipe, and has another seed."""
    folder.mkdir()
    for path in again.adapter.iterdir():
        if path.name != FILE_NAME:
            (folder / path.name).symlink_to(path.resolve())
    again.line.model_copy(update={"seed": again.line.seed + _ELSEWHERE}).write(folder)
    return folder


def _training(line: Lineage) -> dict[str, Any]:
    """Return the options of a plain training that a lineage holds, but for those left open."""
    known = line.finetuned_with.get("training") or {}
    left_out = FORGET_ONLY | {"save_steps"}  # there is nothing to go on from
    return {k: v for k, v in known.items() if v is not None and k not in left_out}


def _run(file: Path, variables: dict[str, str]) -> int:
    """Run the process, and leave none behind."""
    command = [sys.executable, "-m", "unlearn_eval.replay.worker", str(file)]
    with (
        if_interrupted(lambda: "the replay begins anew with the same command"),
        _one(command, variables) as process,
    ):
        return process.wait()


def _for_eyes() -> int:
    """Return the descriptor of stderr, also where that is replaced by something without one."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2


@contextlib.contextmanager
def _one(command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    # its output is for the eyes: what stands on stdout may be read by a program
    process = subprocess.Popen(  # noqa: S603
        command, env=variables, stdin=subprocess.PIPE, stdout=_for_eyes()
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin:
            process.stdin.close()
