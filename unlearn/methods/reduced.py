"""Retrain at a reduced budget: choose the rate, train in stages, stop at the old quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from unlearn.data.tokenization import Example
from unlearn.errors import TrainingError
from unlearn.losses import NLL
from unlearn.methods.budget import (
    BY_HEART,
    FACTORS,
    LOW,
    MOST,
    PASSES,
    ROUNDED,
    Budget,
    Recipe,
    probe_share,
    rows_of,
    watched,
)
from unlearn.model.state import ModelState
from unlearn.training.fitting import Fit, fit, mean_loss, total_steps
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.stages import (
    StageOptions,
    combined,
    counting,
    go_part_of_the_way,
    put_weights,
    stage_seed,
    steps_of,
    trained_weights,
)

__all__ = ["Old", "Search", "most_steps"]

_LEAST_SHARE = 0.1  # less of the rows is not worth a stage of its own
_AMPLE = 1.25  # rows of a further stage, as a multiple of those that would just do
_PACE = 0.4  # rate of a further stage, as a part of what its length alone would ask for: at the
# whole, six steps on SmolLM2 went .2 nats too far, and the embedded model learned nothing more
_SLOWER = 0.3  # of that, after a stage that led away from the target
_LOOKS = 4  # at weights between those before and after a stage that went too far

_BY_HEART = (
    "the kept records were known by heart after few passes, so training was the original's, whole"
)

_FORWARD = 1 / 3
"""What scoring a row costs, where training on it costs 1."""


@dataclass(frozen=True)
class Old:
    """All that is known of the old adapter.

    Attributes:
        loss: on the kept records that are watched, rounded.
        drift: by how much that lies above the loss that its own retraining had to reach, if it was
            retrained with a budget, too: small losses of quality do not add up over requests.
    """

    loss: float
    drift: float = 0.0

    @classmethod
    def of(cls, state: ModelState, examples: Sequence[Example], drift: float = 0.0) -> Old:
        """Measure it."""
        return cls(round(mean_loss(state, examples), ROUNDED), drift)

    @property
    def target(self) -> float:
        """The loss to reach."""
        return round(self.loss - self.drift, ROUNDED)


@dataclass(frozen=True)
class Try:
    """A training that was tried.

    Attributes:
        kind: `candidate` for a short one that only shows which rate to take, `whole` for the
            original's, `part` for weights between those before and after a stage, else `stage`.
        stage: its number.
        factor: its path, as a multiple of the original's; of `part`, the part of the way.
        learning_rate: its highest rate.
        steps: optimizer steps.
        rows: records that it went through, repeats counted.
        tokens: of these.
        seed: of the order of records and of dropout.
        loss: on the watched records afterwards; None where training broke off.
    """

    kind: str
    stage: int
    factor: float
    learning_rate: float
    steps: int
    rows: int
    tokens: int
    seed: int
    loss: float | None


@dataclass(frozen=True)
class _Outcome:
    """What a first stage came to: the watched loss (None where it broke off), how, and where."""

    loss: float | None
    training: TrainingOptions
    weights: Mapping[str, Tensor]


@dataclass
class Search:
    """A retraining at a reduced budget.

    Attributes:
        state: a fresh adapter (or base), trained in place.
        retain: the kept records.
        whole: the original training.
        budget: what it may take.
        seed: of the first stage.
        progress: called with (steps done, steps planned).
        old: what is known of the old adapter; needed by `auto`, and unused by any other budget.
        tries: what was tried so far.
        stages: how the weights that are there were trained.
    """

    state: ModelState
    retain: Sequence[Example]
    whole: TrainingOptions
    budget: Budget
    seed: int
    progress: Callable[[int, int], None] | None = None
    old: Old | None = None
    tries: list[Try] = field(default_factory=list)
    stages: list[StageOptions] = field(default_factory=list)
    _fits: list[Fit] = field(default_factory=list)
    _scored: int = 0

    def __post_init__(self) -> None:
        """Note where training starts, and how long it can take."""
        self._recipe = Recipe(self.whole, len(self.retain), self.budget.first)
        self._watched = [self.retain[i] for i in watched(len(self.retain))]
        self._fresh = trained_weights(self.state)
        self._planned = most_steps(self._recipe, self.budget)
        self._start: float | None = None
        self._broke_off = ""

    def run(self) -> Fit:
        """Choose a rate, train stage after stage, and say what was done.

        Without `auto` there is one stage. With it, training is the original's, whole, where the old
        adapter knew the kept records by heart after few passes. Else stages follow until the
        watched loss is within `quality` of its target, or as many rows were seen as in the original
        training. Each goes through as many rows as all before it, or through fewer where at the
        speed of the last one these would take the loss to its target. Where a stage takes it too
        far, the weights go only part of the way; where one leads away from it, those before stay,
        and a slower one is tried.

        Returns:
            What all tries did together; `recipe` and `trail` are for the lineage.

        Raises:
            TrainingError: if the loss is not finite at any rate.
        """
        if self.takes_the_whole():
            return self._whole()
        factor = self._best_factor()
        loss = self._first_stage(factor)
        if self.old is not None:
            loss = self._go_on(factor, loss, self.old.target)
        return self._done(loss)

    def _best_factor(self) -> float:
        """Try each candidate on a few rows; return the one with the lowest watched loss."""
        share = probe_share(self._recipe)
        if share is None:
            return FACTORS[0]
        # where rates are at their ceiling, several factors are one candidate
        rates = {factor: self._recipe.candidate(share, factor) for factor in reversed(FACTORS)}
        losses = {}
        for factor, training in {t.learning_rate: (f, t) for f, t in rates.items()}.values():
            loss = self._try("candidate", 0, training, factor)
            losses[factor] = math.inf if loss is None else loss
        return min(losses, key=losses.__getitem__)

    def takes_the_whole(self) -> bool:
        """Say whether the old adapter knew the kept records by heart after few passes."""
        passes = self.budget.first * self._recipe.rows / len(self.retain)
        if self.old is None or self.old.target > LOW or passes >= PASSES:
            return False
        return self.old.target <= BY_HEART * self._fresh_loss()

    def _whole(self) -> Fit:
        """Train as the original did."""
        put_weights(self._fresh, self.state)
        result = fit(
            self.state,
            Objective(retain=NLL()),
            self.whole,
            retain=self.retain,
            seed=self.seed,
            progress=self.progress,
        )
        self._fits.append(result)
        loss = self._loss()
        rate, rows = self.whole.learning_rate, self._recipe.rows
        assert rate is not None
        whole = Try("whole", 0, 1.0, rate, result.steps, rows, result.tokens, self.seed, loss)
        self.tries.append(whole)
        cost = self._cost(result.tokens)["of_retraining"]
        return replace(
            result,
            notes=(*result.notes, _BY_HEART, self._notes(loss, 1.0, cost)[0]),
            trail=self._trail(loss, 1.0, result.tokens),
        )

    def _first_stage(self, factor: float) -> float:
        """Train the first stage, anew at a lower rate while the last one taught nothing."""
        outcomes = [self._outcome(factor)]
        lower = sorted((each for each in FACTORS if each < factor), reverse=True)
        for again in lower or [factor / 2]:
            room = self._rows / self._recipe.rows + self.budget.first <= MOST
            if not self._too_high(outcomes[-1].loss) or not (room or len(outcomes) == 1):
                break
            outcomes.append(self._outcome(again))
        best = min(outcomes, key=lambda each: self._distance(each.loss))
        if best.loss is None:
            raise TrainingError(
                f"retrain: training broke off at the rate "
                f"{outcomes[-1].training.learning_rate:g}, too: {self._broke_off}"
            )
        put_weights(best.weights, self.state)
        if not self._too_far(best.loss):
            self.stages = [StageOptions.of(best.training)]
            return best.loss
        part, loss = self._part_of_the_way(0, self._fresh, self._fresh_loss(), best.loss)
        self.stages = [StageOptions.of(best.training, part)]
        return loss

    def _outcome(self, factor: float) -> _Outcome:
        """Train the first stage from fresh weights."""
        training = self._recipe.stage(self.budget.first, factor)
        loss = self._try("stage", 0, training, factor)
        return _Outcome(loss, training, trained_weights(self.state))

    def _too_high(self, loss: float | None) -> bool:
        """Say whether a rate taught nothing."""
        near = self.old is not None and loss is not None and not self._far(loss)
        return loss is None or (not near and loss >= self._fresh_loss())

    def _far(self, loss: float) -> bool:
        """Say whether a loss is still above the target."""
        return self.old is not None and loss - self.old.target > self.budget.quality

    def _too_far(self, loss: float) -> bool:
        """Say whether training went beyond what the old adapter had learned."""
        return self.old is not None and loss - self.old.target < -self.budget.quality

    def _part_of_the_way(
        self, stage: int, begun: Mapping[str, Tensor], before: float, after: float
    ) -> tuple[float, float]:
        """Go back towards the weights before a stage, until the watched loss is near the target.

        Args:
            stage: its number.
            begun: the weights before; those after are in place, and in the end those between.
            before: the loss there, above the target.
            after: the loss after the stage, below it.

        Returns:
            (part of the way, in 64ths; the loss).
        """
        assert self.old is not None
        weights, target = trained_weights(self.state), self.old.target
        low, high = (0.0, before), (1.0, after)  # ends of what is left to look at
        part, loss = 1.0, after
        for _ in range(_LOOKS):
            share = (low[1] - target) / (low[1] - high[1])
            part = round(64 * (low[0] + share * (high[0] - low[0]))) / 64
            if not low[0] < part < high[0]:
                break
            put_weights(weights, self.state)
            go_part_of_the_way(self.state, begun, part)
            loss = self._loss()
            seed, last = stage_seed(self.seed, stage), self.tries[-1]
            self.tries.append(Try("part", stage, part, last.learning_rate, 0, 0, 0, seed, loss))
            if abs(loss - target) <= self.budget.quality:
                return part, loss
            low, high = ((part, loss), high) if loss > target else (low, (part, loss))
        put_weights(weights, self.state)
        # a stage of no part of the way is none
        part, loss = min((low, high), key=lambda end: self._distance(end[1])) if low[0] else high
        go_part_of_the_way(self.state, begun, part)
        return part, loss

    def _distance(self, loss: float | None) -> float:
        """Return how far a loss is from what is wanted: the target, or as little as possible."""
        if loss is None:
            return math.inf
        return loss if self.old is None else abs(loss - self.old.target)

    def _go_on(self, factor: float, loss: float, target: float) -> float:
        """Train further stages until the watched loss is near the target; return it."""
        before = self._fresh_loss() if loss - target > self.budget.quality else loss
        share = covered = self._used  # by the next stage, and by the last one that stayed
        pace = _PACE
        while loss - target > self.budget.quality and before > loss:
            looks = (1 + _LOOKS) * len(self._watched) * _FORWARD / self._recipe.rows
            left = min(1 - self._used, MOST - self._cost(0)["of_retraining"] - looks)
            # as many rows again, or fewer where the loss falls so fast that these are too many;
            # in whole tenths, so that a slightly other target decides alike
            needed = _AMPLE * covered * (loss - target) / (before - loss)
            share = min(self._used, _LEAST_SHARE * math.ceil(needed / _LEAST_SHARE), left)
            if share < _LEAST_SHARE:
                break
            weights = trained_weights(self.state)
            training = self._recipe.further(self.stages[0], share, factor, pace)
            after = self._try("stage", len(self.stages), training, factor, start=weights)
            if after is not None and self._too_far(after):
                part, loss = self._part_of_the_way(len(self.stages), weights, loss, after)
                self.stages.append(StageOptions.of(training, part))
                break
            if after is not None and self._distance(after) <= self._distance(loss):
                self.stages.append(StageOptions.of(training))
                before, loss, covered = loss, after, share
                continue
            put_weights(weights, self.state)
            if pace < _PACE:
                break
            pace *= _SLOWER
        return loss

    @property
    def _used(self) -> float:
        """Rows that trained the weights that are there, as a part of the original training's."""
        rows = sum(rows_of(stage, len(self.retain)) for stage in self.stages)
        return rows / self._recipe.rows

    @property
    def _rows(self) -> int:
        """Rows of all that was tried so far."""
        return sum(each.rows for each in self.tries)

    def _fresh_loss(self) -> float:
        """Return the watched loss before any training, measured once."""
        if self._start is None:
            now = trained_weights(self.state)
            put_weights(self._fresh, self.state)
            self._start = self._loss()
            put_weights(now, self.state)
        return self._start

    def _try(
        self,
        kind: str,
        stage: int,
        training: TrainingOptions,
        factor: float,
        start: Mapping[str, Tensor] | None = None,
    ) -> float | None:
        """Train from some weights, by default fresh ones; return the watched loss afterwards."""
        put_weights(self._fresh if start is None else start, self.state)
        seed, loss = stage_seed(self.seed, stage), None
        before = sum(each.steps for each in self._fits)
        assert training.learning_rate is not None
        tokens = 0
        steps = total_steps(training, len(self.retain))
        try:
            result = fit(
                self.state,
                Objective(retain=NLL()),
                training,
                retain=self.retain,
                seed=seed,
                progress=counting(self.progress, before, max(self._planned, before + steps)),
            )
            self._fits.append(result)
            tokens = result.tokens
            loss = self._loss()
        except TrainingError as error:  # mostly since the rate was too high
            self._broke_off = str(error)
        rate, rows = training.learning_rate, steps * training.batch_size
        self.tries.append(Try(kind, stage, factor, rate, steps, rows, tokens, seed, loss))
        return loss if loss is None or math.isfinite(loss) else None

    def _loss(self) -> float:
        """Return the loss on the watched records."""
        self._scored += len(self._watched)
        return mean_loss(self.state, self._watched)

    def _done(self, loss: float) -> Fit:
        """Return what was done, with what the lineage says of it."""
        total, used = combined(self._fits), self._used
        trail = self._trail(loss, used, total.tokens)
        epochs = sum(stage.epochs or 0 for stage in self.stages)
        return replace(
            total,
            training=self.stages[0].training.model_copy(update={"epochs": epochs}),
            notes=(*total.notes, *self._notes(loss, used, trail["cost"]["of_retraining"])),
            recipe={
                "training": self.whole.model_dump(),
                "stages": [stage.model_dump() for stage in self.stages],
            },
            trail=trail,
        )

    def _trail(self, loss: float, used: float, tokens: int) -> dict[str, Any]:
        """Return what decided the training."""
        losses: dict[str, Any] = {"new": round(loss, 4)}
        if self._start is not None:
            losses["start"] = round(self._start, 4)
        if self.old is not None:
            losses |= {"old": self.old.loss, "target": self.old.target}
            losses["drift"] = round(loss - self.old.target, 4)
        return {
            "asked": self.budget.asked,
            "used": round(used, 4),
            "quality": self.budget.quality,
            "watched": watched(len(self.retain)),
            "kept_loss": losses,
            "tries": [asdict(each) for each in self.tries],
            "cost": self._cost(tokens),
        }

    def _cost(self, tokens: int) -> dict[str, Any]:
        """Return the rows and tokens of all tries, and their part of those of retraining."""
        rows = self._rows
        scored = self._scored + (len(self._watched) if self.old is not None else 0)
        part = (rows + scored * _FORWARD) / self._recipe.rows
        return {
            "rows": rows,
            "rows_scored": scored,
            "rows_of_retraining": self._recipe.rows,
            "tokens": tokens,
            "of_retraining": round(part, 4),
        }

    def _notes(self, loss: float, used: float, cost: float) -> tuple[str, ...]:
        """Say what was used, and whether it reached the old quality."""
        text = f"budget {used:.2g} of the original training, {cost:.2g} with all that was tried; "
        if self.old is None:
            return (f"{text}loss on kept records {loss:.2f}",)
        text += f"loss on kept records {loss:.2f}, of the old adapter {self.old.loss:.2f}"
        gap = loss - self.old.target
        if abs(gap) <= self.budget.quality:
            return (text,)
        way = "above" if gap > 0 else "below"
        advice = (
            "; -o budget=1.0 trains exactly as the original did"
            if gap > 0
            else "; a smaller -o budget=… keeps nearer to it"
        )
        return (text, f"that is {abs(gap):.2f} nats {way} what was to be reached{advice}")


def most_steps(recipe: Recipe, budget: Budget) -> int:
    """Return the steps of all stages that a budget allows, and of all candidates."""
    share = probe_share(recipe)
    tried = [recipe.candidate(share, factor) for factor in FACTORS] if share else []
    return steps_of([*tried, recipe.stage(budget.most, FACTORS[0])], recipe.records)
