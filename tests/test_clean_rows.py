"""Rows checked by columns against the same rows checked one by one."""

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datamodules.sources.clean_columns import clean_columns
from datamodules.sources.clean_rows import LeftOut, clean_rows
from datamodules.sources.columns import Columns
from datamodules.sources.row_blocks import BadRow, Row, python_blocks

PAIRS = Columns("pairs", {"anchor": "a", "positive": "p"}, {"negative_1": "n", "negative_2": "m"}, group="g")
SCORED = Columns("pairs", {"anchor": "a", "positive": "p"}, score="s", min_score=0.5)
GRADED = Columns("graded", {"sentence1": "a", "sentence2": "t"}, target="s", score_range=(0.0, 4.0))
LABELLED = Columns("labelled", {"text": "a"}, target="g", instructions={"text": "i"})

VALUES: dict[str, list[list[Any]]] = {
    "a": [["x", "y z", "\u3000z"], ["x", " ", "\u2003"], ["x", None], ["x", ""]],
    "t": [["t"], ["t", "\x1f"]],
    "p": [["x", "y"], [["x"], ["y", "z"]], [["x"], []], [["x", None]], [["x", " "]], ["x", " "], [None], [["x"], None]],
    "n": [["x", "y"], ["x", None, "", " "], [["x"], [], ["y", "z"], None], [[]], [None], [["x", ""]], [3]],
    "m": [["x", None], [["y", "z"], []], [True]],
    "g": [["g", "h"], [3, 40], ["g", ""], [True], [0.5], [None, "g"], [1, True], ["g", 3]],
    "s": [
        [0.0, 0.5, 4],
        [1, 0],
        ["0.5", "1e0"],
        [0.5, None],
        [" 0.5"],
        ["high"],
        [True],
        [5.0],
        [float("nan"), 1.0],
        [1, True],
    ],
    "i": [["", "i"], [None], [3]],
}
"""Values that a column has in one test, most of them of one type."""


def one_by_one(columns: Columns, rows: list[Row], left_out: LeftOut) -> pa.RecordBatch | None:
    try:
        return clean_rows(rows, columns, left_out)
    except BadRow:
        return None


@pytest.mark.parametrize("columns", [PAIRS, SCORED, GRADED, LABELLED])
def test_both_ways_give_the_same(columns: Columns) -> None:
    draw = random.Random(0)
    taken = 0
    for _ in range(2000):
        size = draw.randint(1, 4)
        kinds = {name: kinds[0] if draw.random() < 0.6 else draw.choice(kinds) for name, kinds in VALUES.items()}
        cells = {name: [draw.choice(kind) for _ in range(size)] for name, kind in kinds.items() if draw.random() < 0.95}
        rows = [Row(f"x:{i}", i, {name: column[i] for name, column in cells.items()}) for i in range(size)]
        ways = LeftOut(False), LeftOut(False)
        expected = one_by_one(columns, rows, ways[0])
        (block,) = python_blocks(rows)
        if block.columns is None or block.numbers is None:
            continue
        found = clean_columns(block.columns, block.numbers, columns, ways[1])
        if found is not None:
            taken += 1
            assert expected is not None and found.equals(expected), (cells, found, expected)
            assert ways[0] == ways[1]
    assert taken > 500, "or the columns are seldom looked at"


def test_a_slice_is_read_where_it_begins() -> None:
    """Lists and texts of a part of a batch have offsets."""
    cells = {"a": ["w", "x", "y", "z"], "p": [["1"], ["2", "3"], ["4"], ["5"]], "n": [["6"], [], None, ["7", "8"]]}
    columns = Columns("pairs", {"anchor": "a", "positive": "p"}, {"negative": "n"})
    batch = pa.RecordBatch.from_pydict(cells)
    found = clean_columns(batch.slice(1, 3), np.arange(3), columns, LeftOut(False))
    assert found is not None
    assert found.drop_columns("place").to_pydict() == {
        "anchor": ["x", "y", "z"],
        "positive": [["2", "3"], ["4"], ["5"]],
        "negative": [[], [], ["7", "8"]],
    }


def test_white_space_is_what_python_takes_for_it() -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    spaces = pc.utf8_is_space(pa.array(characters)).to_pylist()
    assert [c for c, space in zip(characters, spaces, strict=True) if space != c.isspace()] == []
