"""Take records out of a fine-tuned language model or LoRA adapter, and measure what is left.

```python
from unlearn import finetune, forget
from unlearn_eval import run_audit

finetune("base", "records.jsonl", "adapter")
forget("base", "records.jsonl", "subject:ann", "cleaned", adapter="adapter")
run_audit("base", "records.jsonl", "subject:ann", "audit", adapter="cleaned", before="adapter")
```

Importing this package is cheap: torch and transformers are imported when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlearn import errors
from unlearn.errors import UnlearnError
from unlearn.faces import lazy
from unlearn.version import __version__ as __version__

if TYPE_CHECKING:
    from unlearn.data.records import Record, Records, Secret
    from unlearn.federated.federating import federate
    from unlearn.federated.forgetting import forget_federated
    from unlearn.methods.registry import METHODS, Method
    from unlearn.model.state import ModelState, open_model
    from unlearn.provenance.lineage import Lineage
    from unlearn.runs.finetuning import finetune
    from unlearn.runs.forgetting import forget
    from unlearn.runs.saving import Result
    from unlearn.runs.sharded_finetuning import finetune_shards
    from unlearn.runs.sharded_forgetting import forget_shards
    from unlearn.shards.serving import ShardedModel
    from unlearn.training.trainer import Objective, UnlearnTrainer

__all__ = [
    "METHODS",
    "Lineage",
    "Method",
    "ModelState",
    "Objective",
    "Record",
    "Records",
    "Result",
    "Secret",
    "ShardedModel",
    "UnlearnError",
    "UnlearnTrainer",
    "errors",
    "federate",
    "finetune",
    "finetune_shards",
    "forget",
    "forget_federated",
    "forget_shards",
    "open_model",
]

__getattr__ = lazy(
    __name__,
    {
        "METHODS": "methods.registry",
        "Lineage": "provenance.lineage",
        "Method": "methods.method",
        "ModelState": "model.state",
        "Objective": "training.objective",
        "Record": "data.record",
        "Records": "data.records",
        "Result": "runs.saving",
        "Secret": "data.record",
        "ShardedModel": "shards.serving",
        "UnlearnTrainer": "training.trainer",
        "federate": "federated.federating",
        "finetune": "runs.finetuning",
        "finetune_shards": "runs.sharded_finetuning",
        "forget": "runs.forgetting",
        "forget_federated": "federated.forgetting",
        "forget_shards": "runs.sharded_forgetting",
        "open_model": "model.state",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
