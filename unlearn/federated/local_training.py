"""Training on the records of a client, from weights that a server sends.

What is imported here takes seconds; a client's process imports it once it is asked to train.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unlearn.data.records import Records
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import ModelError
from unlearn.losses import NLL, NPO
from unlearn.model.opening import Opening
from unlearn.model.state import ModelState, new_adapter
from unlearn.runs.saving import encode_records
from unlearn.training.fitting import Fit, fit, sample
from unlearn.training.levels import mean_loss
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.stages import put_weights, trained_weights

if TYPE_CHECKING:
    from unlearn.federated.aggregation import Weights

__all__ = ["Workshop", "set_weights"]


@dataclass
class Workshop:
    """The base on which clients train; those of one process share it, one after another.

    Attributes:
        model: the base, a folder or hub name.
        opening: how it is opened.
    """

    model: str
    opening: Opening
    _state: ModelState | None = field(default=None, repr=False)
    _shape: str = ""

    def trained(
        self, records: Records, weights: Weights, config: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Fit]:
        """Train on records from some weights.

        Args:
            records: of a client.
            weights: to begin with.
            config: of the message: `lora`, `base`, `template`, `training`, `seed`.

        Returns:
            (weights, what training did).
        """
        state, examples, training = self._prepared(records, weights, config)
        plain = Objective(retain=NLL())
        done = fit(state, plain, training, retain=examples, seed=int(config["seed"]))
        return _arrays(state), done

    def unlearned(
        self, records: Records, weights: Weights, config: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Fit]:
        """Forget records by negative preference optimisation, from some weights.

        Nothing that others know is at hand here, so that there is no term for what is kept.

        Args:
            records: of a client.
            weights: to begin with.
            config: of the message, as for `trained`.

        Returns:
            (weights, what training did).
        """
        state, examples, training = self._prepared(records, weights, config)
        away = Objective(forget=NPO())
        done = fit(state, away, training, forget=examples, seed=int(config["seed"]))
        return _arrays(state), done

    def loss(self, records: Records, weights: Weights, config: Mapping[str, Any]) -> float:
        """Return the mean loss of at most 64 records under some weights, nats a token."""
        state, examples, _ = self._prepared(records, weights, config)
        return mean_loss(state, sample(examples))

    def _prepared(
        self, records: Records, weights: Weights, config: Mapping[str, Any]
    ) -> tuple[ModelState, list[Example], TrainingOptions]:
        state = self._with_adapter(json.loads(config["lora"]), config["base"])
        set_weights(state, weights)
        training = TrainingOptions(**json.loads(config["training"]))
        template = choose_template(config["template"], state.tokenizer)
        return state, encode_records(records, state, template, training), training

    def _with_adapter(self, lora: Mapping[str, Any], base: str) -> ModelState:
        """Return the base with an adapter that trains, opened once; refuse another base."""
        shape = json.dumps(lora, sort_keys=True)
        if self._state is None or shape != self._shape:
            opened = self.opening.open(self.model)
            if opened.base_digest() != base:
                raise ModelError(f"{self.model} is not the base of the federation: weights differ")
            self._state, self._shape = new_adapter(opened, dict(lora), 0), shape
        return self._state


def set_weights(state: ModelState, weights: Weights) -> None:
    """Put weights as they travel into a state.

    Args:
        state: with an adapter that trains.
        weights: float32 by name.

    Raises:
        ModelError: if they are of another adapter.
    """
    own = {n: p.shape for n, p in state.model.named_parameters() if p.requires_grad}
    given = {name: torch.Size(value.shape) for name, value in weights.items()}
    if own != given:
        odd = sorted(name for name in {*own, *given} if own.get(name) != given.get(name))
        raise ModelError(f"the weights of the federation do not fit the adapter: {odd[0]}")
    put_weights({name: torch.tensor(value) for name, value in weights.items()}, state)


def _arrays(state: ModelState) -> dict[str, Any]:
    return {
        name: np.ascontiguousarray(value.cpu().float().numpy())
        for name, value in trained_weights(state).items()
    }
