"""Columns on Arrow against lists of strings."""

import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.text_column import TextColumn, string_buffers

TEXTS = ["a cat", "", "ein Größeres", "猫", "a cat", "line\u2028inside", "x" * 70]


def in_chunks(*sizes: int) -> TextColumn:
    """`TEXTS` in chunks of these sizes, the first of them with an offset of its own."""
    whole = pa.array(["before", *TEXTS], pa.large_string()).slice(1)
    starts = np.cumsum([0, *sizes])
    return TextColumn(pa.chunked_array([whole.slice(s, n) for s, n in zip(starts, sizes, strict=False)]))


COLUMNS = [
    TextColumn.of(TEXTS),
    in_chunks(7),
    in_chunks(2, 0, 4, 1),
    TextColumn.of(reversed(TEXTS)).take(range(7)[::-1]),
]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_is_a_sequence_of_strings(column: TextColumn) -> None:
    assert (len(column), list(column), column[2], column[-1]) == (7, TEXTS, TEXTS[2], TEXTS[-1])
    assert column == TEXTS and column == tuple(TEXTS) and column == TextColumn.of(TEXTS)
    assert column != TEXTS[:-1] and column != [*TEXTS[:-1], "y"] and column != "abc"
    assert [column[1:4], column[::-2], column[9:]] == [TEXTS[1:4], TEXTS[::-2], []]
    assert ("猫" in column, "dog" in column, column.index("猫")) == (True, False, 3)
    with pytest.raises(IndexError):
        column[7]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("rows", [[], [3], [6, 0, 3, 3, 5], range(2, 7)])
def test_rows_are_taken_of_taken_rows(column: TextColumn, rows: list[int]) -> None:
    taken, other = column.take(rows), [TEXTS[row] for row in rows]
    again = np.arange(len(rows))[::-1]
    assert (taken, taken.take(again)) == (other, other[::-1])
    assert taken.array is column.array
    for size in (1, 3, 100):
        pieces = list(taken.pieces(size))
        assert all(0 < len(piece) <= size and piece.type == pa.large_string() for piece in pieces)
        assert list(chain.from_iterable(piece.to_pylist() for piece in pieces)) == other


def test_a_digest_is_that_of_the_texts() -> None:
    assert len({column.digest() for column in COLUMNS}) == 1
    other = [["a"], ["", "a"], ["a", ""], ["a", "b"], ["ab"], ["ab", ""], ["b", "a"], [], [""]]
    assert len({TextColumn.of(texts).digest() for texts in other}) == len(other)
    assert COLUMNS[2].take([5, 0]).digest() == TextColumn.of([TEXTS[5], TEXTS[0]]).digest()


def test_a_pickle_has_the_rows_of_the_column_only() -> None:
    column = TextColumn.of(f"text {row}" for row in range(10_000))
    for rows in ([], [5], [9_000, 3]):
        pickled = pickle.dumps(column.take(rows))
        assert len(pickled) < 2_000
        assert pickle.loads(pickled) == [f"text {row}" for row in rows]
    assert all(pickle.loads(pickle.dumps(each)) == TEXTS for each in COLUMNS)


def test_another_process_maps_the_file_of_a_column(tmp_path: Path) -> None:
    texts = [f"text {row}" for row in range(10_000)]
    table = pa.table({"other": texts[::-1], "text": pa.array(texts, pa.large_string())})
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table, 512)
    column = TextColumn.mapped(tmp_path / "x.arrow", "text")
    for part in (column, column.take([7, 3]).take([1])):
        pickled = pickle.dumps(part)
        assert len(pickled) < 2_000
        assert pickle.loads(pickled) == part
    assert column == texts


def test_buffers_of_a_slice() -> None:
    offsets, data = string_buffers(pa.array(["ab", "", "c", "def"], pa.large_string()).slice(1, 2))
    assert (offsets - offsets[0]).tolist() == [0, 0, 1]
    assert bytes(data) == b"c"
    assert bytes(string_buffers(pa.array(["", ""], pa.large_string()))[1]) == b""


def test_a_mapped_column(tmp_path: Path) -> None:
    table = pa.table({"t": pa.chunked_array([pa.array(TEXTS, pa.large_string())])})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    mapped = TextColumn(pa.ipc.open_file(pa.memory_map(str(tmp_path / "x.arrow"))).read_all()["t"])
    assert (mapped, mapped.digest()) == (TEXTS, COLUMNS[0].digest())
