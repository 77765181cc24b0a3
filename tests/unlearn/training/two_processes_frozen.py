"""Run by `test_frozen_blocks_in_two_processes`: trained weights, saved by rank 0.

two_processes_frozen.py MODEL ADAPTER DATA OUTPUT KIND [KIND ...]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))

from test_frozen_blocks import OBJECTIVES, opened, run

model, adapter, data, output, *kinds = sys.argv[1:]
for kind in kinds:
    for cached in ("auto", "off"):
        state = opened(Path(model), Path(adapter))
        options = {"cache_frozen": cached, "learning_rate": 1e-3}
        trained = run(state, Path(data), OBJECTIVES[kind], **options)
        if int(os.environ.get("RANK", "0")) == 0:
            weights = {n: w.contiguous() for n, w in trained.weights.items() if "lora" in n}
            save_file(weights, Path(output) / f"{kind}.{cached}.safetensors")
            facts = {"notes": trained.fit.notes, "passes": trained.passes}
            (Path(output) / f"{kind}.{cached}.json").write_text(json.dumps(facts))
if torch.distributed.is_initialized():
    torch.distributed.barrier()  # a rank that leaves early tears the other's connections down
    torch.distributed.destroy_process_group()
