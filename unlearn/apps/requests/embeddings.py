"""Find records that say the same in other words, by the vectors that a text encoder makes of them.

`near_duplicates` compares characters and finds copies; a paraphrase shares few of them. A text's
vector is here the mean of its tokens' last hidden states, which is the default of Reimers and
Gurevych (1908.10084, section 3); two texts are compared by the cosine of their vectors. How well
that works is the encoder's doing: one that was trained to compare sentences is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unlearn.data.record import Record
from unlearn.errors import ModelError, OptionError
from unlearn.model.folders import (
    check_loaded,
    check_model_folder,
    one_line,
    place_of,
    resolve_folder,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Encoder", "alike_in_meaning"]

_BATCH = 32
_ROWS = 1024  # of the matrix of similarities, at a time

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


class Encoder:
    """Makes vectors of texts, each text once.

    Args:
        model: folder or hub name of an encoder in transformers' format; a causal model works, too.
        device: where it runs; by default the accelerator if there is one.
        trust_remote_code: run code from the model's folder.
        progress: called with (texts done, texts in all).

    Raises:
        ModelError: if the model cannot be opened.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | None = None,
        trust_remote_code: bool = False,
        progress: Progress | None = None,
    ) -> None:
        from safetensors import SafetensorError

        folder = resolve_folder(model, "model")
        check_model_folder(folder)
        place = place_of(device)
        try:
            net, self._tokenizer = _opened(folder, trust_remote_code)
        except (SafetensorError, ModelError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"cannot open the encoder {model}: {one_line(error)}") from error
        self._net = net.to(place).eval()
        self._progress = progress
        self._longest = int(min(_positions(net), self._tokenizer.model_max_length))
        self._known: dict[str, Vectors] = {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return a vector a text.

        v = Σ_t m_t h_t / ‖Σ_t m_t h_t‖ over the last hidden states h_t, with m_t = 0 on padding.
        What is longer than the encoder takes (512 tokens with relative positions) is cut. A text
        without any token has the vector 0, which is like no other.

        Args:
            texts: what to encode.

        Returns:
            Rows of length 1 (or 0), float32 [texts, width].
        """
        new = sorted({*texts} - self._known.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            self._known |= zip(part, self._encoded(part), strict=True)
            if self._progress:
                self._progress(start + len(part), len(new))
        width = int(self._net.config.hidden_size)
        return np.stack([self._known[t] for t in texts]) if texts else np.zeros((0, width), "f4")

    def _encoded(self, texts: list[str]) -> Vectors:
        import torch

        given = self._tokenizer(texts, truncation=True, max_length=self._longest)
        lengths = [len(ids) for ids in given["input_ids"]]
        ids, mask = (torch.zeros(len(texts), max(1, *lengths), dtype=torch.long) for _ in "im")
        for i, row in enumerate(given["input_ids"]):
            ids[i, : lengths[i]] = torch.as_tensor(row, dtype=torch.long)
            mask[i, : lengths[i]] = 1
        with torch.inference_mode():
            place = self._net.device
            hidden: torch.Tensor = self._net(
                input_ids=ids.to(place), attention_mask=mask.to(place)
            ).last_hidden_state
            # chosen, not multiplied: padding may hold NaN
            chosen = mask.to(place, torch.bool).unsqueeze(-1)
            total = hidden.float().where(chosen, 0.0).sum(1)
        vectors: Vectors = torch.nn.functional.normalize(total, dim=1).cpu().numpy()
        return vectors


def alike_in_meaning(
    records_a: Iterable[Record],
    records_b: Iterable[Record],
    encoder: Encoder,
    threshold: float = 0.9,
) -> list[tuple[str, str, float]]:
    """Return the pairs of records of two collections whose vectors are at least so similar.

    Every pair is compared.

    Args:
        records_a: some records.
        records_b: others.
        encoder: makes the vectors.
        threshold: smallest cosine, above 0 and at most 1. The default is no paper's: encoders
            differ in what they call similar, so look at what is found.

    Returns:
        (id in the first, id in the second, cosine), in the order of both collections.

    Raises:
        OptionError: if the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise OptionError(f"a similarity of {threshold:g}: it must be above 0 and at most 1")
    first, second = list(records_a), list(records_b)
    a, b = (encoder([" ".join(record.parts) for record in part]) for part in (first, second))
    pairs = []
    for start in range(0, len(first), _ROWS):
        cosines = (a[start : start + _ROWS] @ b.T).clip(-1.0, 1.0)
        # equal texts have equal vectors, whose product may miss 1 by a rounding
        near = cosines >= threshold - 1e-6
        for i, j in zip(*near.nonzero(), strict=True):
            pairs.append((first[start + i].id, second[j].id, float(cosines[i, j])))
    return pairs


def _opened(folder: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """Open a model without its head (and without its decoder, if it has both), and its tokenizer.

    A causal model is opened as one: its token vectors may be stored as its head's only, and would
    be made up without it. For the same reason weights that are missing are refused, but for a
    pooler's, which nothing here reads.
    """
    import torch
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForTextEncoding,
        AutoTokenizer,
    )

    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    config = AutoConfig.from_pretrained(folder, **options)
    causal = any(name.endswith("ForCausalLM") for name in config.architectures or ())
    encoding = type(config) in AutoModelForTextEncoding._model_mapping
    kind = AutoModelForTextEncoding if encoding else AutoModel
    net, loading = (AutoModelForCausalLM if causal else kind).from_pretrained(
        folder,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    check_loaded(loading, unread="pooler.")
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    return (net.base_model if causal else net), tokenizer


def _positions(net: Any) -> int:
    """Return how many tokens a model takes: in RoBERTa's kin the first positions are padding's."""
    limit = getattr(net.config, "max_position_embeddings", None)
    if not limit:  # positions are relative, as T5's, which was trained on so many
        return 512
    taken = [
        module.padding_idx + 1
        for name, module in net.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return int(limit) - max(taken, default=0)
