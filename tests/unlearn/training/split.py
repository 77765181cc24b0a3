"""Run by `test_split.py`: commands one after the other, in each of some processes on CPUs.

split.py '[["finetune", …], ["forget", …]]' [NUMBER]

Weights are split over the processes where a launcher asks for that: on CPUs accelerate would set up
nothing of the kind, which is why commands refuse it there. Here it is told that these are
accelerators, so that its own `fully_shard` is what splits them. The process of rank 1 gets SIGTERM
in the third step of command NUMBER. In the end the first one says how many steps each command did.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import accelerate.state
from accelerate import DistributedType

import unlearn.model.folders
from unlearn.apps.cli import run
from unlearn.training.trainer import UnlearnTrainer

_begin, _finished = accelerate.state.AcceleratorState.__init__, UnlearnTrainer.step_finished


def believing(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """Set accelerate up as it is on accelerators."""
    _begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


def finished(self: UnlearnTrainer) -> None:
    """End a step; of a command to be stopped, the third with SIGTERM."""
    _finished(self)
    steps[-1] += 1
    if stopped and os.environ.get("RANK") == "1" and self.state.global_step == 3:
        os.kill(os.getpid(), signal.SIGTERM)


accelerate.state.AcceleratorState.__init__ = believing  # type: ignore[method-assign]
unlearn.model.folders.check_splitting = lambda device: None  # type: ignore[attr-defined]

UnlearnTrainer.step_finished = finished  # type: ignore[method-assign]

commands, *number = sys.argv[1:]
steps: list[int] = []
for i, words in enumerate(json.loads(commands)):
    stopped = [str(i)] == number
    steps.append(0)
    code = run(words)
    if code != (143 if stopped else 0):
        sys.exit(code or 1)
if os.environ.get("RANK", "0") == "0":
    print("steps", steps)
