from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.statistics.common import group


def test_labels_are_shared_between_sides_and_none_stands_alone():
    grouping = group((4, ["a", "b", None, None]), (3, ["b", "c", None]))
    (a, b, alone, other), (b_again, c, third) = grouping.codes
    assert b == b_again
    assert len({a, b, c, alone, other, third}) == 6
    assert min(map(np.min, grouping.codes)) >= 0
    assert grouping.clusters == 6
    assert grouping.shared


def test_no_labels_means_independent_records():
    grouping = group((3, None), (2, None))
    assert grouping.clusters is None
    assert not grouping.shared
    assert not grouping.clustered
    assert grouping.method("t") == "t"
    assert grouping.effective == pytest.approx((3, 2))


def test_every_record_its_own_subject_is_independence_too():
    grouping = group((3, ["a", "b", "c"]))
    assert (grouping.clusters, grouping.note, grouping.method("t")) == (3, "", "t")


def test_effective_number_falls_where_sizes_differ():
    equal = group((40, np.repeat(np.arange(10), 4)))
    assert equal.effective[0] == pytest.approx(10)
    assert equal.method("t") == "cluster"
    sizes = [31, *[1] * 9]
    lopsided = group((40, np.repeat(np.arange(10), sizes)))
    assert lopsided.effective[0] == pytest.approx(1600 / (31**2 + 9))
    assert lopsided.method("t") == "conditional"
    assert "nearly all" in lopsided.note


def test_nine_clusters_are_too_few_on_either_side():
    nine, ten = np.repeat(np.arange(9), 3), np.repeat(np.arange(10), 3)
    assert group((30, ten), (30, ten)).method("t") == "cluster"
    assert group((30, ten), (27, nine)).method("t") == "conditional"
    grouping = group((27, nine), (30, ten))
    assert "only 9 clusters" in grouping.note
    assert grouping.by_record().method("t") == "t"
    assert group((3, ["a"] * 3)).note.startswith("only 1 cluster on")


def test_one_label_a_record():
    with pytest.raises(DataError, match="2 cluster labels for 3 records"):
        group((3, ["a", "b"]))
