"""Rows as every reader yields them: in blocks, each as Arrow columns where it can be, and row by row."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modules.errors import UserError

BLOCK_ROWS = 16_384
"""Rows of a block, of readers that count rows."""


class Row(NamedTuple):
    """A row as it was read.

    Args:
        where: ``file:line``, or ``file:row 3``, for messages.
        number: its place in the source, counted from 1: the line of a file with lines, else the row.
        values: its columns.
    """

    where: str
    number: int
    values: dict[str, Any]


class BadRow(UserError):
    """A row that cannot be used.

    Args:
        where: the place of the row.
        reason: what is wrong, in words that it has in common with other rows.
        details: what is wrong with this one, and what to do.
    """

    def __init__(self, where: str, reason: str, details: str) -> None:
        super().__init__(f"{where}: {details}")
        self.reason = reason


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source.

    Args:
        rows: reads them one by one, with a `BadRow` in the place of each that cannot be read.
        columns: the same rows on Arrow, if there are no bad ones; None: they have to be read one by one.
        numbers: ``[rows]``, the `Row.number` of each row of ``columns``.
    """

    rows: Callable[[], Iterable[Row | BadRow]]
    columns: pa.RecordBatch | None = None
    numbers: NDArray[np.int64] | None = None

    def names(self, skip_bad: bool) -> set[str]:
        """Return the names of its columns.

        Args:
            skip_bad: pass over bad rows.

        Raises:
            BadRow: there is one, which is not to be passed over.
        """
        if self.columns is not None:
            return set(self.columns.schema.names)
        found: set[str] = set()
        for row in self.rows():
            if isinstance(row, Row):
                found.update(row.values)
            elif not skip_bad:
                raise row
        return found


class RowSource(Protocol):
    """A place that rows are read from, as often as wanted.

    Attributes:
        enough: rows after which reading may end; None: all are read.
    """

    enough: int | None

    @property
    def notes(self) -> list[str]:
        """The assumptions made in finding the rows, one line each."""
        ...

    def identity(self) -> str:
        """Return what is equal exactly where the rows are."""
        ...

    def names(self, skip_bad: bool) -> set[str]:
        """Return the names of all columns; see `Block.names`."""
        ...

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in their order."""
        ...


def python_blocks(rows: Iterable[Row | BadRow], size: int = BLOCK_ROWS) -> Iterator[Block]:
    """Yield the blocks, of at most ``size`` rows, of rows that are Python objects."""
    left = iter(rows)
    while part := list(islice(left, size)):
        good = [row for row in part if isinstance(row, Row)]
        columns = _columns(good) if len(good) == len(part) else None
        yield Block(partial(iter, part), columns, np.array([row.number for row in good]))


def _columns(rows: Sequence[Row]) -> pa.RecordBatch | None:
    """The columns of rows, if each has values of one type that Arrow knows."""
    names = {name: None for row in rows for name in row.values}
    try:
        return pa.RecordBatch.from_pydict({name: [row.values.get(name) for row in rows] for name in names})
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None


def arrow_blocks(source: str, batches: Iterable[pa.RecordBatch]) -> Iterator[Block]:
    """Yield the blocks of rows that are on Arrow.

    Args:
        source: file or name, for messages.
        batches: all rows in their order.
    """
    first = 1
    for batch in batches:
        for start in range(0, len(batch), BLOCK_ROWS):
            part = batch.slice(start, BLOCK_ROWS)
            yield Block(partial(_python_rows, source, part, first), part, np.arange(first, first + len(part)))
            first += len(part)


def _python_rows(source: str, batch: pa.RecordBatch, first: int) -> Iterator[Row]:
    return numbered(source, batch.to_pylist(), first)


def numbered(source: str, rows: Iterable[dict[str, Any]], first: int = 1) -> Iterator[Row]:
    """Yield rows that have a number and no line."""
    return (Row(f"{source}:row {number}", number, values) for number, values in enumerate(rows, first))
