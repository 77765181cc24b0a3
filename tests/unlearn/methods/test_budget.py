"""The recipe of a retraining with a budget: how many rows, in what steps, at what rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unlearn.errors import OptionError
from unlearn.methods.budget import (
    FACTORS,
    Budget,
    Recipe,
    budget_of,
    path_length,
    probe_share,
    rows_of,
    watched,
)
from unlearn.methods.registry import get_method, resolve
from unlearn.training.options import TrainingOptions, total_steps


def _training(**more: Any) -> TrainingOptions:
    return TrainingOptions(**({"learning_rate": 1e-3, "epochs": 5, "batch_size": 8} | more))


@pytest.mark.parametrize(
    ("given", "share"), [("auto", None), (0.25, 0.25), ("0.5", 0.5), (1, 1.0), (1.0, 1.0)]
)
def test_a_budget_is_a_part_or_auto(given: Any, share: float | None) -> None:
    resolved = resolve(get_method("retrain"), {"budget": given})
    assert budget_of(resolved.extra) == Budget(share, 0.1)
    assert resolved.as_dict()["budget"] == given


@pytest.mark.parametrize(
    "options",
    [{"budget": b} for b in (0, -1, 1.01, "much", None)] + [{"quality": q} for q in (0, "x")],
)
def test_any_other_budget_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="retrain: "):
        resolve(get_method("retrain"), options)


def test_retraining_takes_the_whole_budget_unless_told() -> None:
    assert budget_of(resolve(get_method("retrain"), {}).extra).whole


@pytest.mark.parametrize(
    ("records", "more", "share", "batch"),
    [
        (240, {}, 0.25, 4),  # 300 rows: 75 steps of 4
        (60, {}, 0.25, 2),  # 75 rows: 4 would leave 18 steps
        (24, {"batch_size": 1}, 0.25, 1),
        (60, {}, 0.9, 4),
    ],
)
def test_batches_are_small_and_no_larger_than_the_original(
    records: int, more: dict[str, Any], share: float, batch: int
) -> None:
    recipe = Recipe(_training(**more), records, share)
    assert recipe.batch_size == batch
    stage = recipe.stage(share, 1.5)
    used = rows_of(stage, records)
    assert recipe.rows * share - batch < used <= recipe.rows * share


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_the_path_is_the_sum_of_all_rates(schedule: str, warmup: int) -> None:
    from transformers import get_scheduler

    name = "constant_with_warmup" if schedule == "constant" else schedule
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = get_scheduler(name, optimizer, warmup, 20)
    total = 0.0
    for _ in range(20):
        total += scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
    training = _training(schedule=schedule, warmup_steps=warmup)
    assert path_length(training, 20) == pytest.approx(total, rel=1e-6)


def test_the_rate_makes_the_path_a_multiple_of_the_originals() -> None:
    # what brought a quarter of the rows to the old quality on a real model: 5e-3 from 5e-4
    whole = _training(learning_rate=5e-4)
    recipe = Recipe(whole, 60, 0.25)
    stage = recipe.stage(0.25, FACTORS[0])
    original = path_length(whole, total_steps(whole, 60))
    assert path_length(stage, total_steps(stage, 60)) == pytest.approx(FACTORS[0] * original)
    assert stage.learning_rate == pytest.approx(5e-3, rel=0.1)
    assert (stage.schedule, stage.optimizer, stage.max_grad_norm) == ("linear", "adamw", 1.0)
    # and never more than twenty times the original rate, or than 1e-2
    for rate, highest in ((1e-4, 2e-3), (1e-3, 1e-2), (3e-2, 3e-2)):
        high = Recipe(_training(batch_size=2, learning_rate=rate), 60, 0.25).stage(0.25, 9.0)
        assert high.learning_rate == pytest.approx(highest)


def test_a_stage_is_told_in_epochs_so_that_it_fits_other_numbers_of_records() -> None:
    for records in (7, 24, 61, 997):
        for share in (0.1, 0.25, 0.5):
            recipe = Recipe(_training(epochs=3), records, share)
            stage = recipe.stage(share, 1.5)
            steps = max(1, int(share * recipe.rows / stage.batch_size + 1e-9))
            assert total_steps(stage, records) == steps
            assert stage.max_steps is None


def test_candidates_are_tried_where_they_cost_a_thirtieth_at_most() -> None:
    assert probe_share(Recipe(_training(), 60, 0.25)) is None
    recipe = Recipe(_training(epochs=20), 200, 0.25)
    share = probe_share(recipe)
    assert share is not None
    tried = [recipe.candidate(share, factor) for factor in FACTORS]
    assert sum(rows_of(each, 200) for each in tried) <= recipe.rows / 30
    assert all(total_steps(each, 200) >= 8 for each in tried)
    for each, factor in zip(tried, FACTORS, strict=True):  # at the rates of the stage itself
        assert each.learning_rate == recipe.stage(0.25, factor).learning_rate


def test_some_kept_records_are_watched_evenly_spread() -> None:
    assert watched(3) == [0, 1, 2]
    assert len(watched(20)) == 8
    assert len(watched(80)) == 13
    many = watched(10_000)
    assert (len(many), many[0], many[-1]) == (32, 0, 9999)
    assert many == sorted(set(many))
