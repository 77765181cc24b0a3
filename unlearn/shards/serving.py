"""One base with a shard a row: prompts of many people in one batch, each answered by its shard."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from unlearn.data.batching import collate, token_budget_batches
from unlearn.data.record import Record
from unlearn.data.templates import Template, choose_template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import LineageError, ModelError
from unlearn.model.adapters import check_adapter_folder, check_finite
from unlearn.model.generation import answer_start, end_tokens, generate
from unlearn.model.lm_head import Head, hidden_states
from unlearn.model.lora import attach
from unlearn.model.quiet import quiet
from unlearn.model.scoring import TOKEN_BUDGET, target_positions, token_statistics
from unlearn.model.state import ModelState, open_model
from unlearn.provenance.keys import Key
from unlearn.shards.files import Shards, shard_name
from unlearn.shards.mixing import Mixer
from unlearn.shards.router import Route, Router

__all__ = ["STANDS_OUT", "Answer", "Scored", "ShardedModel"]

STANDS_OUT = 2.0
"""How many times as surprised by its own answer as the surest shard all others and the base must
be, for that shard to be taken for the one that knows. On the embedded model 8 shards of 200 records
so found the right one for 199 prompts; of 100 prompts about unknown people 11 were taken for known
ones (at 1.5, 26; at 3, 2, but 6 of the 200 were lost)."""

_LOOKED_AT = 16  # tokens that each shard writes where nothing else says whose a prompt is
_ROWS = 32  # prompts of a batch that writes


class Scored(NamedTuple):
    """What a model says of a record: mean loss in nats a token, and whether it is word for word."""

    loss: float
    recalled: bool


@dataclass(frozen=True)
class Answer:
    """What was written after a prompt.

    Attributes:
        text: the answer.
        route: which shard wrote it, and how it was found.
    """

    text: str
    route: Route


@dataclass
class ShardedModel:
    """Shards on one base, in memory together.

    Attributes:
        state: the base with all shards that are on.
        shards: what `shards.json` says.
        router: the table of routes.
        key: the user's, under which the table is asked.
        template: how prompts are written.
        mixer: gives each row of a batch its shard.
    """

    state: ModelState
    shards: Shards
    router: Router
    key: Key
    template: Template
    mixer: Mixer

    @classmethod
    def load(cls, model: str | Path, folder: str | Path, **opening: Any) -> Self:
        """Open a base and all its shards that are on.

        Args:
            model: the base, a folder or hub name.
            folder: the folder of shards.
            **opening: as `open_model` takes it.

        Returns:
            The model.

        Raises:
            LineageError: if a shard is not the one that `shards.json` names, the base another, or
                the key in use not the one that dealt people out.
        """
        place = Path(folder).expanduser()
        shards, router, key = Shards.read(place), Router.read(place), Key.load()
        if not key.id == shards.key_id == router.key_id:
            raise LineageError(
                f"{folder} was made with the key {shards.key_id}, and the key in use is {key.id}: "
                "nobody could be found in it; set UNLEARN_KEY or UNLEARN_HOME"
            )
        shards.check(place)
        state = open_model(model, **opening)
        if state.base_digest() != shards.base.digest:
            raise ModelError(
                f"the shards in {folder} were trained on another base ({shards.base.name}) than "
                f"{model}: their weights differ"
            )
        template = choose_template(shards.template, state.tokenizer)
        state = _with_shards(state, place, shards)
        return cls(state, shards, router, key, template, Mixer(state.model, state.stack))

    @property
    def served(self) -> list[int]:
        """Numbers of the shards that are on."""
        return [i for i, shard in enumerate(self.shards.shards) if shard.state == "on"]

    def routes(
        self,
        prompts: Sequence[str],
        units: Sequence[str | None] | None = None,
        *,
        confidence: bool = False,
    ) -> list[Route]:
        """Find the shard of each prompt.

        A unit that is given decides: its shard, or the base where nobody is called so. Without one
        the longest name in the prompt does; where there is none, with `confidence`, the shard that
        is the surest of its own answer (`STANDS_OUT`), which costs one short answer a shard.

        Args:
            prompts: what is asked.
            units: whose each is, where the caller knows.
            confidence: whether to let the shards say where no name does.

        Returns:
            One route each; `nowhere` and `off` go to the base.
        """
        given = units if units is not None else [None] * len(prompts)
        found = [self._looked_up(p, u) for p, u in zip(prompts, given, strict=True)]
        lost = [i for i, route in enumerate(found) if route.how == "nowhere" and given[i] is None]
        if confidence and lost and self.served:
            for i, route in zip(lost, self._surest([prompts[i] for i in lost]), strict=True):
                found[i] = route
        return found

    def generate(
        self,
        prompts: Sequence[str],
        units: Sequence[str | None] | None = None,
        *,
        max_tokens: int = 64,
        confidence: bool = False,
    ) -> list[Answer]:
        """Answer prompts, greedily, each by its shard, in batches that mix shards.

        Args:
            prompts: what is asked.
            units: whose each is, where the caller knows.
            max_tokens: of an answer.
            confidence: see `routes`.

        Returns:
            One answer each.
        """
        routes = self.routes(prompts, units, confidence=confidence)
        written = self.write(self._beginnings(prompts), [r.shard for r in routes], max_tokens)
        ends = end_tokens(self.state.model, self.state.tokenizer)
        texts = [self.state.tokenizer.decode(_until(ids, ends)).strip() for ids in written]
        return [Answer(text, route) for text, route in zip(texts, routes, strict=True)]

    def write(
        self, beginnings: Sequence[Example], shards: Sequence[int | None], length: int
    ) -> list[npt.NDArray[np.int64]]:
        """Write on from beginnings, each by a shard.

        Args:
            beginnings: what to write on from.
            shards: of each; None for the base.
            length: tokens at most.

        Returns:
            Tokens, up to and with the first that ends a text.
        """
        ends = end_tokens(self.state.model, self.state.tokenizer)
        found: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(beginnings), _ROWS):
            part = slice(start, start + _ROWS)
            with self._mixed(shards[part]):
                found += generate(self.state.model, beginnings[part], length, ends)
        return found

    @torch.no_grad()
    def score(self, examples: Sequence[Example], shards: Sequence[int | None]) -> list[Scored]:
        """Score encoded records, each by a shard.

        Args:
            examples: the records.
            shards: of each; None for the base.

        Returns:
            One score each, whatever batches they went through in.
        """
        found: dict[int, Scored] = {}
        device = self.state.device
        for batch in token_budget_batches([len(e.ids) for e in examples], TOKEN_BUDGET):
            inputs = {k: v.to(device) for k, v in collate([examples[i] for i in batch]).items()}
            row, position, target = target_positions(inputs)
            with self._mixed([shards[i] for i in batch]):
                hidden = hidden_states(self.state.model, inputs)[row, position]
            statistics = token_statistics(self.state.head, hidden, target)
            rows = row.cpu()
            for number, i in enumerate(batch):
                mine = rows == number
                loss = -float(statistics.log_prob[mine].double().mean())
                found[i] = Scored(loss, bool(statistics.hit[mine].all()))
        return [found[i] for i in range(len(examples))]

    def encoded(self, records: Sequence[Record]) -> list[Example]:
        """Write records as tokens, as the shards were trained on them."""
        return encode(records, self.state.tokenizer, self.template, self.state.max_length)

    def _looked_up(self, prompt: str, unit: str | None) -> Route:
        """Find a prompt's shard in the table."""
        if unit is not None:
            return self._checked(self.router.given(unit, self.key), given=True)
        return self._checked(self.router.named(prompt, self.key), given=False)

    def _checked(self, shard: int | None, *, given: bool) -> Route:
        """Send to the base what is nobody's, or of a shard that is off."""
        if shard is None:
            return Route(None, "nowhere")
        if self.shards.shards[shard].state != "on":
            return Route(None, "off")
        return Route(shard, "given" if given else "name")

    def _surest(self, prompts: Sequence[str]) -> list[Route]:
        """Let each shard and the base answer; take the shard that stands out."""
        beginnings = self._beginnings(prompts)
        served = self.served
        surprise = np.stack([self._surprise(beginnings, shard) for shard in (*served, None)])
        winner, order = surprise.argmin(0), np.sort(surprise, 0)
        out = (order[1] >= STANDS_OUT * order[0]) & (winner < len(served))
        return [
            Route(served[w], "confidence") if yes else Route(None, "nowhere")
            for w, yes in zip(winner, out, strict=True)
        ]

    def _surprise(
        self, beginnings: Sequence[Example], shard: int | None
    ) -> npt.NDArray[np.float64]:
        """Return the mean loss of each answer of a shard, under that shard, in nats a token."""
        ends = end_tokens(self.state.model, self.state.tokenizer)
        shards = [shard] * len(beginnings)
        written = self.write(beginnings, shards, _LOOKED_AT)
        whole = [
            _continued(begun, _until(ids, ends, kept=True))
            for begun, ids in zip(beginnings, written, strict=True)
        ]
        return np.array([each.loss for each in self.score(whole, shards)])

    def _beginnings(self, prompts: Sequence[str]) -> list[Example]:
        """Write prompts as tokens, up to where the answer begins."""
        # the answer is cut off again; a letter merges with a blank before it, as words do
        records = [
            Record(id=str(i), prompt=prompt, completion="A") for i, prompt in enumerate(prompts)
        ]
        return [_begun(example) for example in self.encoded(records)]

    def _mixed(self, shards: Sequence[int | None]) -> contextlib.AbstractContextManager[None]:
        """Give each row of a batch its shard, as long as this lasts."""
        places = {shard: place for place, shard in enumerate(self.served)}
        return self.mixer.rows([None if shard is None else places[shard] for shard in shards])


def _with_shards(state: ModelState, folder: Path, shards: Shards) -> ModelState:
    """Put the shards that are on beside each other on a base."""
    net, names = state.model, []
    for number, shard in enumerate(shards.shards):
        if shard.state != "on":
            continue
        path = folder / shard_name(number)
        check_adapter_folder(path)
        check_finite(path)
        with quiet():
            net = attach(net, path, shard_name(number), trainable=False)
        names.append(shard_name(number))
    net.eval()
    return replace(state, model=net, head=Head.of(net), stack=tuple(names))


def _begun(example: Example) -> Example:
    start = answer_start(example)
    return replace(example, ids=example.ids[:start], target=np.zeros(start, dtype=bool))


def _continued(begun: Example, ids: npt.NDArray[np.int64]) -> Example:
    target = np.concatenate([np.zeros(len(begun.ids), dtype=bool), np.ones(len(ids), dtype=bool)])
    return replace(begun, ids=np.concatenate([begun.ids, ids]), target=target)


def _until(
    ids: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], *, kept: bool = False
) -> npt.NDArray[np.int64]:
    """Return tokens up to the first that ends a text, with it if it is `kept`."""
    found = np.flatnonzero(np.isin(ids, ends))
    return ids[: int(found[0]) + kept] if found.size else ids
