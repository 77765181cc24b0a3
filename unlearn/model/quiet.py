"""Keep libraries from talking while a model is opened, trained or saved: a user is told by us."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["quiet"]

_LIBRARIES = (
    r"(transformers|peft|accelerate|bitsandbytes|torch|safetensors|huggingface_hub|tokenizers)"
    r"(\.|$)"
)


@contextlib.contextmanager
def quiet(*, calls_back: bool = False) -> Iterator[None]:
    """Silence progress bars, warnings and logs of libraries in a block, and leave all as it was.

    Args:
        calls_back: code of the user runs in the block, too, whose warnings are to be seen.

    Yields:
        Nothing.
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    put_hook = getattr(logging, "set_tqdm_hook", lambda hook: hook)  # since transformers 5.2
    hook = put_hook(_without_bar)
    logging.set_verbosity(max(level, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_LIBRARIES if calls_back else "")
            yield
    finally:
        logging.set_verbosity(level)
        put_hook(hook)


def _without_bar(factory: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    return factory(*args, **{**kwargs, "disable": True})
