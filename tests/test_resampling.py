"""Resampled data sets have exactly the rows that were asked for."""

from collections import Counter

import pytest

from datamodules.resampling import resample, resampled_sizes
from datamodules.task_data import TaskData
from modules import LossConfig, UserError

RATIOS = ((3, 1), (3, 2), (1, 1), (2, 3), (1, 3))


def data(rows: int) -> TaskData:
    texts = [[f"a{row}" for row in range(rows)], [f"p{row}" for row in range(rows)]]
    return TaskData("t", "pairs", texts, ["", ""], None, None, LossConfig("infonce"))


@pytest.mark.parametrize("ratio", RATIOS)
def test_total_keeps_the_number_of_rows_and_has_the_ratio(ratio: tuple[int, int]) -> None:
    counts = resampled_sizes([900, 300], ratio, "total")
    assert sum(counts) == 1200
    assert counts[0] * ratio[1] == counts[1] * ratio[0]


@pytest.mark.parametrize("ratio", RATIOS)
def test_max_keeps_the_rows_of_the_largest_for_the_largest_weight(ratio: tuple[int, int]) -> None:
    counts = resampled_sizes([900, 300], ratio, "max")
    assert max(counts) == 900
    assert counts[0] * ratio[1] == counts[1] * ratio[0]


def test_counts_that_do_not_divide_are_rounded_to_add_up() -> None:
    assert resampled_sizes([7, 4, 3], [1, 1, 1], "total") == [5, 5, 4]
    assert resampled_sizes([7, 4, 3], [3, 2, 1], "max") == [7, 5, 2]


def test_every_row_is_there_as_often_as_any_other_but_for_one_copy() -> None:
    found = resample(data(10), 27, seed=1)
    copies = Counter(found.texts[0])
    assert sum(copies.values()) == len(found) == 27
    assert set(copies.values()) == {2, 3} and len(copies) == 10
    assert [text[1:] for text in found.texts[0]] == [text[1:] for text in found.texts[1]]
    assert found.texts == resample(data(10), 27, seed=1).texts
    assert found.texts != resample(data(10), 27, seed=2).texts
    assert len(set(resample(data(10), 4, seed=1).texts[0])) == 4


@pytest.mark.parametrize("weights", [(1, 0), (1, -1), (1, 1e-9)])
def test_a_data_set_without_rows_is_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="resampling"):
        resampled_sizes([100, 10], weights, "total")
