"""Rows of a data file, or of a folder of them."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.sources.arrow_files import arrow_names, arrow_rows, parquet_names, parquet_rows
from datamodules.sources.csv_files import COMMA, csv_names, csv_rows, delimiter_of
from datamodules.sources.json_files import json_lines, json_list
from datamodules.sources.row_blocks import BadRow, Block, Row
from datamodules.sources.text_lines import PART
from modules.errors import UserError, first_line

SPLIT_NAME = re.compile(r"(train|valid|validation|val|dev|test|eval)(?![a-z])", re.IGNORECASE)
"""The beginning of the name of a file that holds one split of a folder's data."""

ABOUT_DATA = {"dataset_info.json", "dataset_infos.json"}
"""Files that ``datasets`` writes beside data, and that hold none."""


class Format(NamedTuple):
    """A reader of the files of a format.

    Args:
        blocks: the rows of a file.
        names: the names of its columns; None: they are known only when all rows are.
    """

    blocks: Callable[[Path], Iterator[Block]]
    names: Callable[[Path], set[str]] | None = None


TEXT_FORMATS = {
    ".jsonl": Format(json_lines),
    ".json": Format(json_list),
    ".csv": Format(csv_rows, csv_names),
    ".tsv": Format(partial(csv_rows, delimiter="\t"), partial(csv_names, delimiter="\t")),
}
FORMATS: dict[str, Format] = {
    **{suffix + packed: found for packed in ("", ".gz", ".zst") for suffix, found in TEXT_FORMATS.items()},
    ".parquet": Format(parquet_rows, parquet_names),
    ".arrow": Format(arrow_rows, arrow_names),
    ".feather": Format(arrow_rows, arrow_names),
}
"""End of a file's name to its format."""

KNOWN = f"{', '.join([*TEXT_FORMATS, '.parquet', '.arrow', '.feather'])}; text also with .gz or .zst behind it"


def suffix_of(name: str) -> str:
    """Return the end of a file's name that says its format; empty: it says none."""
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), "")


class FileRows:
    """The rows of one or more files, in their order.

    Args:
        files: each of a known format.
        through: whether rows are numbered through all files, instead of by the lines of the only one.
    """

    def __init__(self, files: list[Path], through: bool = False) -> None:
        self.files, self.through = files, through
        self.enough: int | None = None

    @property
    def notes(self) -> list[str]:
        """A line for every CSV file whose fields are not separated by commas."""
        marks = {path.name: delimiter_of(path) for path in self.files if _format(path).blocks is csv_rows}
        return [f"the fields of {name} are separated by {mark!r}" for name, mark in marks.items() if mark != COMMA]

    def identity(self) -> str:
        """Return the names of the files with the SHA-256 of their bytes."""
        return "\n".join(f"{path.name} {sha256_of(path)}" for path in self.files)

    def names(self, skip_bad: bool) -> set[str]:
        """Return the names of all columns."""
        return {name for path in self.files for name in _names(path, skip_bad)}

    def blocks(self) -> Iterator[Block]:
        """Yield the rows."""
        blocks = (block for path in self.files for block in _format(path).blocks(path))
        yield from _renumbered(blocks) if self.through else blocks


def _renumbered(blocks: Iterable[Block]) -> Iterator[Block]:
    first = 1
    for block in blocks:
        if block.columns is None:
            rows = list(_with_numbers(block.rows, first))
            yield Block(partial(iter, rows))
            first += len(rows)
        else:
            numbers = np.arange(first, first + len(block.columns))
            yield Block(partial(_with_numbers, block.rows, first), block.columns, numbers)
            first += len(numbers)


def _with_numbers(rows: Callable[[], Iterable[Row | BadRow]], first: int) -> Iterator[Row | BadRow]:
    for number, row in enumerate(rows(), first):
        yield row._replace(number=number) if isinstance(row, Row) else row


def _format(path: Path) -> Format:
    return FORMATS[suffix_of(path.name)]


def _names(path: Path, skip_bad: bool) -> set[str]:
    blocks, names = _format(path)
    return names(path) if names else {name for block in blocks(path) for name in block.names(skip_bad)}


def folder_rows(folder: Path, split: str) -> FileRows:
    """Return the rows of all files of one split in a folder, in the order of their names.

    Args:
        folder: whose files are named by split, or all belong to it.
        split: the name that the files of a split begin with.

    Raises:
        UserError: there are none.
    """
    found = sorted(path for path in folder.iterdir() if path.is_file() and suffix_of(path.name))
    files = [path for path in found if path.name[0] not in "._" and path.name not in ABOUT_DATA]
    if not files:
        raise UserError(f"{folder}: a folder without data files ({KNOWN}); give one with some, or one of save_to_disk")
    named = {path: match[0].lower() for path in files if (match := SPLIT_NAME.match(path.name))}
    if named:
        files = [path for path, name in named.items() if name == split.lower()]
    if not files:
        splits = ", ".join(sorted(set(named.values())))
        raise UserError(f"{folder}: has no files of split {split!r}, only of {splits}; set 'split'")
    return FileRows(files, through=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, taken once per process as long as it does not change.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        state = path.stat()
        return _sha256(path.absolute(), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); mend the file") from None


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while part := file.read(PART):
            digest.update(part)
    return digest.hexdigest()
