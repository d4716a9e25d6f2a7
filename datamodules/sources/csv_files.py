"""Rows of CSV and TSV files."""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.sources.row_blocks import BLOCK_ROWS, BadRow, Block, Row
from datamodules.sources.text_lines import opened
from modules.errors import UserError

FIELD_LIMIT = 2**31 - 1
"""Characters of a field, the most that the csv module takes on every platform; its default refuses long texts."""

COMMA = ","
OTHER_DELIMITERS = (";", "\t")
"""What separates fields where it is not the comma: spreadsheets write it where that is the decimal sign."""

Fields = tuple[int, list[str]]
"""The fields of a row, and the number of its last line."""


def delimiter_of(path: Path) -> str:
    """Return what separates the fields of a CSV file: a comma, unless the header has none, and a semicolon or a tab."""
    _, header = next(_separated(path, COMMA), (0, []))
    others = [mark for mark in OTHER_DELIMITERS if len(header) == 1 and mark in header[0]]
    return next(iter(others), COMMA)


def csv_names(path: Path, delimiter: str = COMMA) -> set[str]:
    """Return the names in the first row."""
    return set(next(_rows(path, delimiter), (0, []))[1])


def csv_rows(path: Path, delimiter: str = COMMA) -> Iterator[Block]:
    """Yield the rows below the header.

    Args:
        path: of the file.
        delimiter: what separates fields; a comma: what `delimiter_of` finds.

    Raises:
        UserError: a quoted field has no end, so that nobody can say where the next row begins.
    """
    rows = _rows(path, delimiter)
    _, header = next(rows, (0, []))
    while part := list(islice(rows, BLOCK_ROWS)):
        one_by_one = partial(_one_by_one, path, header, part)
        if all(len(fields) == len(header) for _, fields in part):
            columns = dict(zip(header, zip(*(fields for _, fields in part), strict=True), strict=True))
            arrays = {name: pa.array(column, pa.large_string()) for name, column in columns.items()}
            yield Block(one_by_one, pa.RecordBatch.from_pydict(arrays), np.array([number for number, _ in part]))
        else:
            yield Block(one_by_one)


def _one_by_one(path: Path, header: list[str], rows: Sequence[Fields]) -> Iterator[Row | BadRow]:
    for number, fields in rows:
        where = f"{path}:{number}"
        if len(fields) == len(header):
            yield Row(where, number, dict(zip(header, fields, strict=True)))
        else:
            yield BadRow(where, "wrong number of fields", f"not {len(header)} fields as in the header; mend the row")


def _rows(path: Path, delimiter: str) -> Iterator[Fields]:
    return _separated(path, delimiter_of(path) if delimiter == COMMA else delimiter)


def _separated(path: Path, delimiter: str) -> Iterator[Fields]:
    csv.field_size_limit(FIELD_LIMIT)
    with opened(path) as file:
        text = TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader: Any = csv.reader(text, strict=True, delimiter=delimiter)
        try:
            for fields in reader:
                if fields:  # else the line is blank
                    yield reader.line_num, fields
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: malformed CSV ({error}); mend the row") from None
