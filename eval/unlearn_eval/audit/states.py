"""The states of an audit: which there are, what decides their numbers, and each opened in turn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unlearn.model.opening import Opening
from unlearn.model.state import ModelState, resolve_folder, swap_adapters
from unlearn.provenance.lineage import Lineage
from unlearn.runs.fields import Place
from unlearn_eval.audit.inputs import AdapterStack, Inputs
from unlearn_eval.audit.lineages import LineageFacts, lineages_of
from unlearn_eval.audit.options import AuditOptions
from unlearn_eval.passes.base import AuditedState
from unlearn_eval.scores.cache import folder_digest, setting
from unlearn_eval.scores.reading import reading_beside

__all__ = ["States", "is_shadow", "open_states"]

_SHADOW = "shadow:"


def is_shadow(name: str) -> bool:
    """Say whether a model is compared with only, and is no state of the audit."""
    return name.startswith(_SHADOW)


@dataclass(frozen=True)
class States:
    """The unlearned state, opened, and where the others lie.

    Attributes:
        unlearned: the state under audit, `after`.
        adapters: on the base.
        others: by name, the adapters (or full models) that are looked at besides: `before`,
            `reference:0` …, `shadow:0` ….
        opening: how models are opened.
        lineage: of the unlearned state, if it has one.
        lineage_facts: what the lineages say of the records and of the references.
        notes: whose tokenizer and chat template all of them are read with, where they differ.
    """

    unlearned: ModelState
    adapters: AdapterStack
    others: Mapping[str, Place]
    opening: Opening
    lineage: Lineage | None
    lineage_facts: LineageFacts
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the unlearned adapter or model lies."""
        return self.unlearned.adapter or self.unlearned.folder

    def stack_digests(self) -> list[str]:
        """Return a digest of each folder that the unlearned state is made of, the base first."""
        adapters = [
            *self.adapters.below,
            *([self.adapters.audited] if self.adapters.audited else []),
        ]
        folders = [resolve_folder(path, "adapter") for path in adapters]
        return [folder_digest(folder) for folder in (self.unlearned.folder, *folders)]

    def stamps(self) -> dict[str, str]:
        """Return a digest of all that decides what each state computes, by its name."""
        form = setting(self.unlearned, self.opening)

        def stamp(*folders: Path) -> str:
            return json.dumps([form, *map(folder_digest, folders)])

        base = self.unlearned.folder
        if not self.adapters.audited:
            full = {name: resolve_folder(path, "model") for name, path in self.others.items()}
            return {name: stamp(folder) for name, folder in (full | {"after": base}).items()}
        below = [resolve_folder(path, "adapter") for path in self.adapters.below]
        tops = {**self.others, "after": self.adapters.audited}
        folders = {name: resolve_folder(path, "adapter") for name, path in tops.items()}
        stamps = {name: stamp(base, *below, folder) for name, folder in folders.items()}
        return stamps | {"base": stamp(base)}

    def visit(self, stamps: Mapping[str, str]) -> Iterator[AuditedState]:
        """Open one state after the other, never two models at a time; the base comes last."""
        state = self.unlearned
        for name, path in self.others.items():
            other = self._open(state, path)
            yield _opened(name, other, stamps)
            if self.adapters.audited:
                state = other
        if self.adapters.audited and self.others:
            state = swap_adapters(state, [*self.adapters.below, self.adapters.audited])
        yield _opened("after", state, stamps)
        if self.adapters.audited:
            with state.reference("base") as (base, head):
                digest = state.base_digest()
                yield AuditedState("base", base, head, digest, None, stamps["base"])

    def _open(self, state: ModelState, path: Place) -> ModelState:
        """Open another state: other adapters on the base in memory, or another full model."""
        if self.adapters.audited:
            return swap_adapters(state, [*self.adapters.below, path])
        return self.opening.open(path)


def open_states(options: AuditOptions, inputs: Inputs) -> States:
    """Open the unlearned state, and read what the lineages of all say.

    Raises UnlearnError if a model cannot be used, or a reference saw the records.
    """
    adapters, audited = inputs.adapters, inputs.adapters.audited
    unlearned = options.open(options.model, [*adapters.below, *([audited] if audited else [])])
    lineage = Lineage.read(unlearned.adapter or unlearned.folder)
    before = options.before
    earlier = None if before is None else Lineage.read(resolve_folder(before, adapters.kind))
    facts = lineages_of(
        inputs.references,
        inputs.records.parts,
        lineage,
        adapters.kind,
        unlearned.base_digest() if audited else _base_of(lineage, earlier),
        earlier,
    )
    others: dict[str, Place] = {} if before is None else {"before": before}
    others |= {f"reference:{i}": path for i, path in enumerate(inputs.references)}
    others |= {f"{_SHADOW}{i}": path for i, path in enumerate(inputs.shadows)}
    notes = (*unlearned.notes, *_read_alike(unlearned, adapters, others))
    return States(unlearned, adapters, others, options.opening, lineage, facts, notes)


def _read_alike(
    state: ModelState, adapters: AdapterStack, others: Mapping[str, Place]
) -> tuple[str, ...]:
    """Say which states were trained with another chat template, and refuse another tokenizer.

    All are given the same tokens: those of the unlearned state.
    """
    assert state.reading is not None
    assert state.base_reading is not None
    audited = bool(adapters.audited)
    below = [resolve_folder(path, "adapter") for path in adapters.below] if audited else None
    unlike: dict[str, list[str]] = {}
    for name, path in others.items():
        difference = state.reading.differs(reading_beside(state, path, below))
        if difference:
            unlike.setdefault(difference, []).append(name)
    if audited and state.reading.differs(state.base_reading) == "chat template":
        unlike.setdefault("chat template", []).append("base")
    return tuple(
        f"{', '.join(names)}: made with another {what} than the state under audit; all are read "
        "with that of the state under audit"
        for what, names in unlike.items()
    )


def _opened(name: str, state: ModelState, stamps: Mapping[str, str]) -> AuditedState:
    folder = state.adapter or state.folder
    return AuditedState(name, state.model, state.head, state.digest(), folder, stamps[name], state)


def _base_of(audited: Lineage | None, before: Lineage | None) -> str | None:
    """Return the digest of the base that a full fine-tune was trained from, where a lineage says.

    What is made of a full fine-tune has that one for its base, not the model that this started at.
    """
    first = [line for line in (audited, before) if line is not None and line.parent is None]
    return first[0].base.digest if first else None
