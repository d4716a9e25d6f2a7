"""The texts of one column on Arrow, where a Python string is made only of what is asked for."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from operator import eq
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PIECE = 65_536
"""Texts that are worked on at a time."""


class TextColumn(Sequence[str]):
    """The texts of one column: memory-mapped where they were prepared on disk, in memory for small data.

    Args:
        array: the whole column as it was prepared, of type ``large_string`` and without nulls; it is never copied.
        rows: which of its rows this column has, counted from 0, in which order; None: all.

    Example:
        >>> list(TextColumn.of(["a cat", "a dog", "a bird"]).take([2, 0]))
        ['a bird', 'a cat']
    """

    def __init__(self, array: pa.ChunkedArray, rows: NDArray[np.int64] | None = None) -> None:
        self.array, self.rows = array, rows
        self._whole: TextColumn | None = None
        self._file: tuple[Path, str] | None = None

    @classmethod
    def mapped(cls, file: Path, name: str) -> "TextColumn":
        """Return a column of an Arrow file, memory-mapped; another process that is given it maps it itself."""
        column = cls(pa.ipc.open_file(pa.memory_map(str(file))).read_all()[name])
        column._file = file, name
        return column

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TextColumn":
        """Return a column of texts in memory; a column is returned as it is."""
        if isinstance(texts, TextColumn):
            return texts
        return cls(pa.chunked_array([pa.array(list(texts), pa.large_string())]))

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.array if self.rows is None else self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "TextColumn": ...

    def __getitem__(self, index: int | slice) -> "str | TextColumn":
        """Return one text, or the column of several of them."""
        places = range(len(self))[index]
        if isinstance(places, range):
            return self.take(places)
        text: str = self.array[places if self.rows is None else int(self.rows[places])].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        """Yield the texts; a piece of them is in memory at a time."""
        for piece in self.pieces():
            yield from piece.to_pylist()

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has the same texts in the same order."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return the first texts, and how many there are."""
        return f"TextColumn({list(self[:3])}{f', ... {len(self):,} texts' if len(self) > 3 else ''})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where a mapped column lies; or the texts, without the rest of those that they were taken of."""
        file = self.whole._file
        if file is not None:
            return _mapped, (*file, self.rows)
        taken = None if self.rows is None else pa.chunked_array(list(self.pieces()), pa.large_string())
        return TextColumn, (self.array if taken is None else taken,)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "TextColumn":
        """Return a column of some rows of this one, counted from 0; only their numbers are copied, no text."""
        chosen = np.asarray(rows, dtype=np.int64)
        taken = TextColumn(self.array, chosen if self.rows is None else self.rows[chosen])
        taken._whole = self.whole
        return taken

    @property
    def whole(self) -> "TextColumn":
        """The column of all rows as they were prepared, the same object for all columns that are taken from it."""
        if self.rows is None:
            return self
        if self._whole is None:
            self._whole = TextColumn(self.array)
        return self._whole

    def pieces(self, size: int = PIECE) -> Iterator[pa.LargeStringArray]:
        """Yield consecutive parts of at most ``size`` texts, for vectorised work."""
        if self.rows is None:
            for chunk in self.array.chunks:
                yield from (chunk.slice(start, size) for start in range(0, len(chunk), size))
        else:
            for start in range(0, len(self), size):
                yield self._gathered(self.rows[start : start + size])

    def _gathered(self, rows: NDArray[np.int64]) -> pa.LargeStringArray:
        """Copies of some rows of the whole column; `pyarrow.ChunkedArray.take` would copy all of it first."""
        chunks = np.searchsorted(self._ends, rows, side="right")
        by_chunk = np.argsort(chunks, kind="stable")
        parts = []
        for chunk in np.unique(chunks):
            inside = rows[chunks == chunk] - (self._ends[chunk - 1] if chunk else 0)
            parts.append(self.array.chunk(int(chunk)).take(pa.array(inside)))
        return pa.concat_arrays(parts).take(pa.array(np.argsort(by_chunk, kind="stable")))

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Number of rows up to the end of each chunk."""
        return np.cumsum([len(chunk) for chunk in self.array.chunks])

    def digest(self) -> str:
        """Return the SHA-256 of the texts: equal for equal texts, however they are stored."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        lengths, content = hashlib.sha256(), hashlib.sha256()
        for piece in self.pieces():
            offsets, data = string_buffers(piece)
            lengths.update(np.diff(offsets).astype("<i8").tobytes())
            content.update(data)
        return hashlib.sha256(lengths.digest() + content.digest()).hexdigest()


def _mapped(file: Path, name: str, rows: NDArray[np.int64] | None) -> TextColumn:
    column = TextColumn.mapped(file, name)
    return column if rows is None else column.take(rows)


def string_buffers(texts: pa.LargeStringArray) -> tuple[NDArray[np.int64], memoryview]:
    """Return where each text begins, and the last ends, and the UTF-8 bytes from the first of these places on."""
    _, offsets, data = texts.buffers()
    ends: NDArray[Any] = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return ends, memoryview(data or b"")[ends[0] : ends[-1]]
