"""The mathematics of averaging, by hand; nothing here needs Flower."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import TrainingError
from unlearn.federated.aggregation import (
    average,
    average_products,
    clipped,
    noisy_average,
    norms,
    rescaled,
    step,
)

A, B = "base.q.lora_A.default.weight", "base.q.lora_B.default.weight"


def member(seed: int, rank: int = 2, rows: int = 7, columns: int = 5) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        A: draw.normal(size=(rank, columns)).astype(np.float32),
        B: draw.normal(size=(rows, rank)).astype(np.float32),
    }


def product(weights: dict[str, np.ndarray]) -> np.ndarray:
    return weights[B].astype(float) @ weights[A].astype(float)


def test_the_average_of_two_by_hand() -> None:
    first, second = {"w": np.float32([1, 2])}, {"w": np.float32([5, 10])}
    assert average([first, second], [0.75, 0.25])["w"].tolist() == [2.0, 4.0]


def test_products_are_averaged_exactly_where_the_rank_has_room() -> None:
    first, second = member(0, rank=1), member(1, rank=1)
    # both have one direction of two that their rank allows: the average needs both
    pad = {A: np.zeros((1, 5), np.float32), B: np.zeros((7, 1), np.float32)}
    members = [
        {A: np.concatenate([m[A], pad[A]]), B: np.concatenate([m[B], pad[B]], 1)}
        for m in (first, second)
    ]
    done = average_products(members, [0.25, 0.75])
    wanted = 0.25 * product(first) + 0.75 * product(second)
    assert np.allclose(product(done.weights), wanted, atol=1e-6)
    assert done.lost == pytest.approx(0.0, abs=1e-12)
    # the average of factors is something else
    assert not np.allclose(product(average(members, [0.25, 0.75])), wanted, atol=0.1)


def test_without_room_the_nearest_matrix_of_the_rank_is_kept_and_the_loss_told() -> None:
    members = [member(seed) for seed in range(3)]
    done = average_products(members, [0.5, 0.25, 0.25])
    wanted = sum(p * product(m) for p, m in zip((0.5, 0.25, 0.25), members, strict=True))
    values = np.linalg.svd(wanted, compute_uv=False)
    error = np.linalg.norm(product(done.weights) - wanted) ** 2
    assert error == pytest.approx((values[2:] ** 2).sum(), rel=1e-4)
    assert done.lost == pytest.approx((values[2:] ** 2).sum() / (values**2).sum(), rel=1e-6)


def test_one_client_keeps_its_product_and_the_result_is_the_same_each_time() -> None:
    one = member(3)
    done = average_products([one], [1.0])
    assert np.allclose(product(done.weights), product(one), atol=1e-5)
    again = average_products([one], [1.0])
    assert all((done.weights[k] == again.weights[k]).all() for k in done.weights)


def test_an_empty_adapter_can_still_be_learned() -> None:
    one = member(4)
    one[B] = np.zeros_like(one[B])
    done = average_products([one, one], [0.5, 0.5])
    assert not product(done.weights).any()
    assert np.linalg.norm(done.weights[A], axis=1) == pytest.approx(np.ones(2), abs=1e-5)


def test_layers_smaller_than_the_rank_keep_their_shape() -> None:
    members = [member(seed, rank=6, rows=3, columns=4) for seed in (0, 1)]
    done = average_products(members, [0.5, 0.5])
    assert {k: v.shape for k, v in done.weights.items()} == {A: (6, 4), B: (3, 6)}
    wanted = 0.5 * product(members[0]) + 0.5 * product(members[1])
    assert np.allclose(product(done.weights), wanted, atol=1e-5)


def test_embeddings_have_factors_of_other_names() -> None:
    names = {A: "e.lora_embedding_A.default", B: "e.lora_embedding_B.default"}
    members = [{names[k]: v for k, v in member(seed).items()} for seed in (0, 1)]
    done = average_products(members, [0.5, 0.5])
    a, b = done.weights[names[A]], done.weights[names[B]]
    wanted = 0.5 * product(member(0)) + 0.5 * product(member(1))
    values = np.linalg.svd(wanted, compute_uv=False)
    assert np.linalg.norm(b @ a - wanted) ** 2 == pytest.approx((values[2:] ** 2).sum(), rel=1e-4)


def test_a_calibrated_update_has_the_old_length_and_the_new_direction() -> None:
    update = {"w": np.float32([3, 4]), "v": np.float32([0, 0])}
    made = rescaled(update, {"w": 10.0, "v": 7.0})
    assert made["w"].tolist() == [6.0, 8.0]
    assert made["v"].tolist() == [0.0, 0.0]  # what did not move has no direction
    assert norms(update) == {"w": 5.0, "v": 0.0}


def test_updates_are_clipped_over_all_tensors_together() -> None:
    update = {"w": np.float32([3]), "v": np.float32([4])}
    short = clipped(update, 1.0)
    assert short["w"][0] == pytest.approx(0.6)
    assert short["v"][0] == pytest.approx(0.8)
    assert clipped(update, 100.0)["w"][0] == 3.0
    with pytest.raises(TrainingError, match="not finite"):
        clipped({"w": np.float32([np.nan])}, 1.0)


def test_the_noisy_average_by_hand_divides_by_what_was_expected() -> None:
    before = {"w": np.float32([1, 1]), "v": np.float32([0])}
    updates = [{"w": np.float32([30, 40]), "v": np.float32([0])}]
    noise = np.array([0.5, -0.5, 2.0])
    after = noisy_average(before, updates, noise, clip=5.0, expected=2.0)
    assert after["w"].tolist() == pytest.approx([1 + (3 + 0.5) / 2, 1 + (4 - 0.5) / 2])
    assert after["v"].tolist() == pytest.approx([1.0])
    # nobody took part: the noise alone moves the weights
    alone = noisy_average(before, [], noise, clip=5.0, expected=2.0)
    assert alone["w"].tolist() == pytest.approx([1.25, 0.75])


def test_a_step_is_what_changed() -> None:
    assert step({"w": np.float32([1])}, {"w": np.float32([3])})["w"].tolist() == [2.0]
