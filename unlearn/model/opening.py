"""How a model is opened: number format, device, what it may run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from unlearn.config import Flag, options

if TYPE_CHECKING:
    from unlearn.model.state import ModelState

__all__ = ["Device", "Dtype", "FourBit", "Opening", "RemoteCode"]

_PANEL = "Model files"


Dtype = Annotated[
    str,
    Field(description="float32, bfloat16, float16, or auto: bfloat16 where a GPU has it."),
    Flag(panel=_PANEL),
]
Device = Annotated[
    str | None, Field(description="cpu, cuda, cuda:1, … Default: a GPU if any."), Flag(panel=_PANEL)
]
RemoteCode = Annotated[
    bool, Field(description="Run Python code that comes with the model."), Flag(panel=_PANEL)
]
FourBit = Annotated[
    bool, Field(description="Quantise the base on load (NF4; extra quant)."), Flag(panel=_PANEL)
]


@options
class Opening:
    """How a model is opened."""

    _: KW_ONLY
    dtype: Dtype = "auto"
    device: Device = None
    trust_remote_code: RemoteCode = False
    load_in_4bit: FourBit = False

    @property
    def opening(self) -> Opening:
        """These four alone, of a class that has more."""
        return Opening(**self.as_dict())

    def open(
        self,
        model: str | Path,
        adapters: Sequence[str | Path] | str | Path | None = None,
        *,
        trainable: bool = False,
    ) -> ModelState:
        """Open a base model and adapters on it, as `open_model` does, in this way."""
        from unlearn.model.state import open_model

        return open_model(model, adapters, trainable=trainable, **self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return the four by name, as `open_model` takes them."""
        return {each.name: getattr(self, each.name) for each in fields(Opening)}
