from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearn.errors import DataError
from unlearn_eval.scores.token_scores import TokenScores

ARRAYS = [f.name for f in dataclasses.fields(TokenScores) if f.name not in ("ids", "sampled")]


def random_scores(records: int = 7, seed: int = 0) -> TokenScores:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, records)
    n = int(lengths.sum())
    log_prob = -rng.exponential(size=n)
    log_prob[0] = -np.inf
    return TokenScores(
        ids=tuple(f"id-{i} ä" for i in range(records)),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        log_prob=log_prob,
        hit=rng.random(n) < 0.5,
        rank=rng.integers(0, 99, n),
        mean=-rng.exponential(size=n),
        std=rng.exponential(size=n),
        entropy=rng.exponential(size=n),
        text_bytes=rng.integers(8, 99, records),
        secret=rng.integers(0, 3, n),
        top=-rng.exponential(size=n),
        sampled={(1.0, 40): np.maximum(log_prob, -5) - 0.1, (0.7, 0): -rng.exponential(size=n)},
    )


def assert_same(a: TokenScores, b: TokenScores) -> None:
    assert a.ids == b.ids
    assert list(a.sampled) == list(b.sampled)
    for key in a.sampled:
        np.testing.assert_array_equal(a.sampled[key], b.sampled[key])
    for name in ARRAYS:
        left, right = getattr(a, name), getattr(b, name)
        if left is None:
            assert right is None
        else:
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


def test_reduces_each_record_over_its_own_tokens(make_scores):
    scores = make_scores([[-1.0, -2.0], [-3.0], [-1.0, -1.0, -4.0]])
    assert scores.records == 3
    assert scores.lengths.tolist() == [2, 1, 3]
    assert scores.per_record(scores.log_prob).tolist() == [-1.5, -3.0, -2.0]
    assert scores.per_record(scores.log_prob, "sum").tolist() == [-3.0, -3.0, -6.0]
    assert scores.log_prob[scores.tokens(1)].tolist() == [-3.0]
    assert scores.log_prob[scores.tokens(-1)].tolist() == [-1.0, -1.0, -4.0]
    with pytest.raises(IndexError):
        scores.tokens(3)
    with pytest.raises(DataError, match="6 tokens"):
        scores.per_record(np.zeros(3))


def test_minus_infinity_is_a_score(make_scores):
    assert make_scores([[-np.inf, -1.0]]).per_record(np.array([-np.inf, -1.0]))[0] == -np.inf


def test_converts_types_and_is_read_only(make_scores):
    mine = np.array([-1.0, -2.0], dtype=np.float32)
    scores = make_scores([[-1.0], [-2.0]], log_prob=mine, rank=[0, 3], hit=[1, 0])
    assert (scores.log_prob.dtype, scores.rank.dtype) == (np.float64, np.int64)
    assert scores.hit.tolist() == [True, False]
    with pytest.raises(ValueError, match="read-only"):
        scores.log_prob[0] = 0.0
    same_type = np.array([-1.0, -2.0])
    make_scores([[-1.0], [-2.0]], log_prob=same_type)
    same_type[0] = -5.0  # the caller's own array stays writable


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"offsets": [0, 2]}, "3 offsets"),
        ({"offsets": [0, 3, 3]}, "'r1' has no target token"),
        ({"offsets": [0, 2, 4]}, "does not fit 'log_prob'"),
        ({"offsets": [1, 2, 3]}, "does not fit"),
        ({"std": [1.0]}, "does not fit 'std'"),
        ({"text_bytes": [9]}, "'text_bytes'"),
        ({"log_prob": [-1.0, -1.0, np.nan]}, "'r1', target token 0: 'log_prob' is NaN"),
        ({"log_prob": [-1.0, 1.0, -1.0]}, "'r0', target token 1: 'log_prob' is above 0"),
        ({"log_prob": [-1.0, np.inf, -1.0]}, "'log_prob' is above 0"),
        ({"mean": [np.nan, -1.0, -1.0]}, "'r0', target token 0: 'mean' is NaN"),
        ({"std": [1.0, np.nan, 1.0]}, "'r0', target token 1: 'std'"),
        ({"entropy": [1.0, 1.0, np.inf]}, "'r1', target token 0: 'entropy'"),
    ],
)
def test_refuses_what_does_not_fit_and_names_the_record(make_scores, columns, message):
    with pytest.raises(DataError, match=message):
        make_scores([[-1.0, -1.0], [-1.0]], **columns)


def test_take_reorders_repeats_and_masks():
    scores = random_scores()
    taken = scores.take([3, 0, 3])
    assert taken.ids == (scores.ids[3], scores.ids[0], scores.ids[3])
    assert taken.lengths.tolist() == scores.lengths[[3, 0, 3]].tolist()
    for new, old in enumerate([3, 0, 3]):
        for name in ("log_prob", "hit", "rank", "mean", "std", "entropy"):
            np.testing.assert_array_equal(
                getattr(taken, name)[taken.tokens(new)], getattr(scores, name)[scores.tokens(old)]
            )
    assert_same(scores.take(range(scores.records)), scores)
    mask = np.arange(scores.records) % 2 == 0
    assert_same(scores.take(mask), scores.take([0, 2, 4, 6]))
    assert_same(scores.take([-1]), scores.take([6]))
    with pytest.raises(IndexError):
        scores.take([7])
    with pytest.raises(IndexError):
        scores.take(np.array([True, False]))


def test_no_records_at_all():
    empty = random_scores().take([])
    assert empty.records == 0
    assert empty.per_record(empty.log_prob).shape == (0,)


@pytest.mark.parametrize("positions", [range(7), [5], []])
@pytest.mark.parametrize("with_bytes", [True, False])
def test_file_round_trip_is_exact(tmp_path: Path, positions, with_bytes):
    scores = random_scores().take(positions)
    if not with_bytes:
        scores = dataclasses.replace(scores, text_bytes=None)
    file = tmp_path / "deep" / "scores.parquet"
    scores.save(file)
    assert_same(TokenScores.load(file), scores)
    assert pq.read_metadata(file).num_rows == scores.records
    assert [p.name for p in file.parent.iterdir()] == ["scores.parquet"]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch):
    file = tmp_path / "scores.parquet"
    old = random_scores(seed=1)
    old.save(file)

    def fail(table, where):
        Path(where).write_bytes(b"half")
        raise RuntimeError("killed")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(RuntimeError, match="killed"):
        random_scores(seed=2).save(file)
    assert_same(TokenScores.load(file), old)
    assert [p.name for p in tmp_path.iterdir()] == ["scores.parquet"]


def test_load_says_which_file_is_wrong(tmp_path: Path):
    with pytest.raises(DataError, match=r"absent\.parquet"):
        TokenScores.load(tmp_path / "absent.parquet")
    junk = tmp_path / "junk.parquet"
    junk.write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"junk\.parquet: cannot read"):
        TokenScores.load(junk)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"id": ["a"]}), other)
    with pytest.raises(DataError, match=r"other\.parquet: no column log_prob"):
        TokenScores.load(other)

    good = tmp_path / "good.parquet"
    random_scores(2).save(good)
    table = pq.read_table(good)
    place = table.column_names.index("std")
    for column, message in [
        (pa.array([[1.0], None]), "empty cells"),
        (pa.array([[1.0] * 9, [1.0] * 9]), "differ in tokens"),
        (pa.array([1.0, 1.0]), r"bad\.parquet"),
    ]:
        pq.write_table(table.set_column(place, "std", column), tmp_path / "bad.parquet")
        with pytest.raises(DataError, match=message):
            TokenScores.load(tmp_path / "bad.parquet")
