"""Run by `test_launched.py`: several commands one after the other, in each of some processes.

commands_in_turn.py '[["finetune", …], ["forget", …]]' [RANK ERROR]

With RANK and ERROR the training of that process raises after its first step: `wrong` for an error
of input, `bug` for another, `killed` for SIGKILL. `preempted` sends it SIGTERM in its ninth step,
counted over all commands.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from unlearn.apps.cli import run
from unlearn.errors import TrainingError


def fail(kind: str) -> None:
    """Let the trainer of this process fail after its first step."""
    from unlearn.training.trainer import UnlearnTrainer

    finished, steps = UnlearnTrainer.step_finished, []

    def preempted(self: UnlearnTrainer) -> None:
        finished(self)
        steps.append(self.state.global_step)
        if len(steps) == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    def failing(self: UnlearnTrainer) -> None:
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise TrainingError("this disk is full") if kind == "wrong" else ZeroDivisionError("odd")

    chosen = preempted if kind == "preempted" else failing
    UnlearnTrainer.step_finished = chosen  # type: ignore[method-assign]


commands, *where = sys.argv[1:]
if where and os.environ.get("RANK", "0") == where[0]:
    fail(where[1])
for words in json.loads(commands):
    if code := run(words):
        sys.exit(code)
