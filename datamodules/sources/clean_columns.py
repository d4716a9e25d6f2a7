"""Checked rows, whole columns at a time: what `clean_rows` makes of the same rows, where none of them is bad."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.sources.clean_rows import TEXT, LeftOut, clean_schema, instruction
from datamodules.sources.columns import Columns

Texts = tuple[NDArray[np.int64], pa.LargeStringArray]
"""Texts, each with the row that it belongs to, in the order of the rows."""


class _OneByOne(Exception):
    """A column may have a bad value, or values that only Python can take for what they are."""


def clean_columns(
    rows: pa.RecordBatch, numbers: NDArray[np.int64], columns: Columns, left_out: LeftOut
) -> pa.RecordBatch | None:
    """Check rows by their columns.

    Args:
        rows: as they were read.
        numbers: ``[rows]``, of the rows in their source.
        columns: which are read of them.
        left_out: where rows are counted that are not used.

    Returns:
        The rows in the form of `clean_schema`; None: they have to be checked one by one.
    """
    try:
        kept = rows.append_column("place", pa.array(numbers))
        if columns.min_score is not None:
            kept = kept.filter(pc.greater_equal(_numbers(_cells(rows, columns.score)), columns.min_score))
        clean = _clean(kept, columns)
    except (_OneByOne, pa.ArrowException):
        return None
    left_out.below_min_score += len(rows) - len(kept)
    return clean


def _clean(rows: pa.RecordBatch, columns: Columns) -> pa.RecordBatch:
    clean = {"place": rows.column(rows.num_columns - 1)}
    for name, column in columns.texts.items():
        cells = _cells(rows, column)
        clean[name] = _lists(len(rows), _positives(cells)) if name == "positive" else _texts(cells)
    if columns.kind == "pairs":
        clean["negative"] = _lists(len(rows), _negatives(rows, columns.negatives.values()))
    elif columns.target is not None:
        cells = _cells(rows, columns.target)
        clean["target"] = _scores(cells, columns.score_range) if columns.kind == "graded" else _names(cells)
    if columns.group is not None:
        clean["group"] = _names(_cells(rows, columns.group))
    for side, column in columns.instructions.items():
        clean[instruction(side)] = _strings(_cells(rows, column))
    schema = clean_schema(columns)
    return pa.RecordBatch.from_arrays([clean[name] for name in schema.names], schema=schema)


def _cells(rows: pa.RecordBatch, column: str) -> pa.Array:
    index = rows.schema.get_field_index(column)
    if index < 0:
        raise _OneByOne
    cells = rows.column(index)
    return cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells


def _strings(cells: pa.Array) -> pa.LargeStringArray:
    if not _is_string(cells.type) or cells.null_count:
        raise _OneByOne
    cells.validate(full=True)
    return cells.cast(TEXT)


def _texts(cells: pa.Array) -> pa.LargeStringArray:
    texts = _strings(cells)
    if pc.any(_is_blank(texts)).as_py():
        raise _OneByOne
    return texts


def _listed(cells: pa.Array) -> Texts:
    """The texts of cells that hold one, or a list of them, or nothing."""
    if _is_string(cells.type):
        texts = cells.cast(TEXT)
        present = pc.invert(pc.fill_null(_is_blank(texts), True))
        return np.flatnonzero(present), _strings(texts.filter(present))
    if pa.types.is_null(cells.type):
        return np.zeros(0, np.int64), pa.array([], TEXT)
    if not (pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type)):
        raise _OneByOne
    items = cells.flatten()
    texts = _texts(items) if len(items) else pa.array([], TEXT)
    return pc.list_parent_indices(cells).to_numpy(), texts


def _positives(cells: pa.Array) -> Texts:
    rows, texts = _listed(cells)
    if len(np.unique(rows)) < len(cells):
        raise _OneByOne
    return rows, texts


def _negatives(rows: pa.RecordBatch, columns: Collection[str]) -> Texts:
    """The negatives of all columns, those of one row in the order of the columns."""
    found = [_listed(_cells(rows, column)) for column in columns if column in rows.schema.names]
    owners = np.concatenate([owners for owners, _ in found] or [np.zeros(0, np.int64)])
    texts = pa.concat_arrays([texts for _, texts in found] or [pa.array([], TEXT)])
    order = np.argsort(owners, kind="stable")
    return owners[order], texts.take(pa.array(order))


def _lists(rows: int, texts: Texts) -> pa.LargeListArray:
    """Return a list per row."""
    ends = np.cumsum(np.bincount(texts[0], minlength=rows))
    return pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], ends])), texts[1])


def _numbers(cells: pa.Array) -> pa.DoubleArray:
    plain = pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or _is_string(cells.type)
    if not plain or cells.null_count:
        raise _OneByOne
    return cells.cast(pa.float64())


def _scores(cells: pa.Array, span: tuple[float, float] | None) -> pa.DoubleArray:
    scores, (low, high) = _numbers(cells).to_numpy(), span or (0.0, 1.0)
    if not ((low <= scores) & (scores <= high)).all():
        raise _OneByOne
    return pa.array((scores - low) / (high - low))


def _names(cells: pa.Array) -> pa.LargeStringArray:
    names = cells.cast(TEXT) if pa.types.is_integer(cells.type) and not cells.null_count else _strings(cells)
    if pc.any(pc.equal(names, "")).as_py():
        raise _OneByOne
    return names


def _is_blank(texts: pa.Array) -> pa.BooleanArray:
    return pc.or_(pc.equal(texts, ""), pc.utf8_is_space(texts))


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
