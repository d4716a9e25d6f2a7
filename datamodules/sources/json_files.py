"""Rows of JSON lines, and of a JSON list of objects."""

import json
import re
from collections.abc import Iterator
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from datamodules.sources.row_blocks import BadRow, Block, Row, python_blocks
from datamodules.sources.text_lines import PART, line_blocks, opened
from modules.errors import UserError

SPACE = re.compile(r"[ \t\n\r]*")
"""White space of JSON."""

ONE_A_LINE = "write one JSON object a line"


def json_lines(path: Path) -> Iterator[Block]:
    """Yield the rows of a file with one JSON object per line.

    Args:
        path: of the file.
    """
    for first, content in line_blocks(path):
        yield Block(partial(_line_by_line, path, first, content), *_columns(first, content))


def _line_by_line(path: Path, first: int, content: bytes) -> Iterator[Row | BadRow]:
    for number, line in enumerate(content.split(b"\n"), first):
        where = f"{path}:{number}"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            yield BadRow(where, "not UTF-8", f"not UTF-8 ({error.reason}); save the file as UTF-8")
            continue
        if text.strip():
            yield _row(where, number, text)


def _row(where: str, number: int, text: str) -> Row | BadRow:
    try:
        return _row_of(where, number, json.loads(text), ONE_A_LINE)
    except (ValueError, RecursionError) as error:
        return BadRow(where, "not valid JSON", f"not valid JSON ({_problem(error)}); {ONE_A_LINE}")


def _problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "too deeply nested" if isinstance(error, RecursionError) else "a number has too many digits"


def _row_of(where: str, number: int, value: Any, advice: str) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(where, number, value)
    return BadRow(where, "not a JSON object", f"holds {type(value).__name__}, not an object; {advice}")


def _columns(first: int, content: bytes) -> tuple[pa.RecordBatch | None, NDArray[np.int64] | None]:
    """Return the rows that pyarrow reads of whole lines, with their line numbers, if each line is one object.

    pyarrow would read two objects in one line, and one in two lines; but not where every line begins and ends like an
    object, and there are as many objects as lines. Nor does it look whether all is UTF-8.
    """
    lines = [line.strip() for line in content.split(b"\n")]
    numbers = np.flatnonzero([len(line) > 0 for line in lines])
    if not len(numbers) or not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines if line):
        return None, None
    whole = pyarrow.json.ReadOptions(use_threads=False, block_size=len(content) + 1)
    try:
        table = pyarrow.json.read_json(pa.BufferReader(content), whole)
        table.validate(full=True)
        content.decode()  # names of columns, too
    except (pa.ArrowException, UnicodeDecodeError):
        return None, None
    if len(table) != len(numbers):
        return None, None
    return table.combine_chunks().to_batches()[0], numbers + first


def json_list(path: Path) -> Iterator[Block]:
    """Yield the rows of a file that holds a JSON list of objects, or else of one with an object per line.

    Args:
        path: of the file.
    """
    with opened(path) as file:
        is_list = _JsonList(path, file).next_character() == "["
    return python_blocks(_elements(path)) if is_list else json_lines(path)


def _elements(path: Path) -> Iterator[Row | BadRow]:
    with opened(path) as file:
        yield from _JsonList(path, file).rows()


class _JsonList:
    """A JSON list, of which a part is in memory at a time.

    Args:
        path: of the file, for messages.
        file: at its start.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._text = path, TextIOWrapper(file, encoding="utf-8-sig")
        self._decoder = json.JSONDecoder()
        self._part, self._at = "", 0

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield the elements."""
        mark, number = self._take(), 0
        if self.next_character() == "]":
            mark = self._take()
        while mark != "]":
            self.next_character()
            number += 1
            where = f"{self._path}:row {number}"
            yield _row_of(where, number, self._element(where), "write a list of objects")
            mark = self._take()
            if mark not in (",", "]"):
                raise UserError(f"{where}: not valid JSON (no comma or end of the list behind it); mend the file")
        if self.next_character():
            raise UserError(f"{self._path}: not valid JSON (more behind the end of the list); mend the file")

    def next_character(self) -> str:
        """Pass over white space and return the character behind it; empty at the end of the file."""
        while True:
            space = SPACE.match(self._part, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._part) or not self._read():
                return self._part[self._at : self._at + 1]

    def _take(self) -> str:
        character = self.next_character()
        self._at += 1
        return character

    def _element(self, where: str) -> Any:
        while True:
            problem = "the list has no end"
            try:
                value, end = self._decoder.raw_decode(self._part, self._at)
                if end < len(self._part):
                    self._at = end
                    return value
            except (ValueError, RecursionError) as error:
                problem = _problem(error)
            if not self._read():
                raise UserError(f"{where}: not valid JSON ({problem}); mend the file")

    def _read(self) -> bool:
        more = self._text.read(PART)
        self._part, self._at = self._part[self._at :] + more, 0
        return bool(more)
