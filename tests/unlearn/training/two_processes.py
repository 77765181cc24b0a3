"""Run by `test_two_processes_equal_one`: the gradient of one step of each kind, saved by rank 0.

two_processes.py MODEL ADAPTER DATA OUTPUT KIND [KIND ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))

from test_loku import first_gradient
from test_trainer import asked, gradients, until_stopped

model, adapter, data, output, *kinds = sys.argv[1:]
paths = Path(model), Path(adapter), Path(data)
for kind in kinds:
    if kind == "loku":
        found = first_gradient(*paths)
    elif kind == "stopped":
        found = until_stopped(*paths)
    else:
        objective, wrappers = asked(kind)
        found = gradients(*paths, objective, **wrappers)
    if int(os.environ.get("RANK", "0")) == 0:
        plain = {name.replace(".module.", "."): value for name, value in found.items()}
        save_file(plain, Path(output) / f"{kind}.safetensors")
if torch.distributed.is_initialized():
    torch.distributed.barrier()  # a rank that leaves early tears the other's connections down
    torch.distributed.destroy_process_group()
