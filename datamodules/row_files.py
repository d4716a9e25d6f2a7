"""Rows of a file (JSON lines, CSV, Parquet), a folder or a hub data set, each with the place it was read from."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.mirror import hub_or_cache, mirrored_path, tried_places
from datamodules.text_lines import iterate_lines
from modules.errors import UserError, first_line

FIELD_LIMIT = 2**31 - 1
"""Characters of a CSV field, the most that the csv module takes on every platform; its default refuses long texts."""

SPLIT_NAME = re.compile(r"(train|valid|validation|val|dev|test|eval)(?![a-z])", re.IGNORECASE)
"""The beginning of the name of a file that holds one split of a folder's data."""


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


def read_rows(source: str, config: str | None = None, split: str = "train") -> list[Row]:
    """Rows of ``source``: a file, a folder of files, a data set on disk, or the name of a hub data set.

    Args:
        source: the path or the name.
        config: of a hub data set.
        split: of a hub data set, of a folder whose files are named by split, or of a saved ``DatasetDict``.

    Raises:
        UserError: nothing of that name is found, the format is unknown, or a row cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if _reader(path) is None:
            raise UserError(f"{source}: unknown format; give a file that ends in {', '.join(READERS)}")
        return list(_read_file(path))
    if path.is_dir():
        return list(_read_folder(path, split))
    if source.count("/") == 1 and not source.startswith((".", "/", "~")) and _reader(path) is None:
        return list(_read_hub(source, config, split))
    raise UserError(
        f"data source {source!r}: no such file (looked for {path.absolute()}) and not a hub data set org/name; "
        "give python_docs, a data file, a folder of data files or a hub name"
    )


def _reader(path: Path) -> "Callable[[Path], Iterator[Row]] | None":
    return next((reader for suffix, reader in READERS.items() if path.name.endswith(suffix)), None)


def _read_file(path: Path) -> Iterator[Row]:
    reader = _reader(path)
    assert reader is not None
    try:
        yield from reader(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); mend the file") from None


def _read_folder(folder: Path, split: str) -> Iterator[Row]:
    """Rows of a data set that ``save_to_disk`` wrote, or of all files of one split, in the order of their names."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _read_saved(folder, split)
    files = sorted(path for path in folder.iterdir() if path.is_file() and _reader(path) and path.name[0] not in "._")
    if not files:
        raise UserError(
            f"{folder}: a folder without data files ({', '.join(READERS)}); give one with some, or one of save_to_disk"
        )
    named = {path: found[0].lower() for path in files if (found := SPLIT_NAME.match(path.name))}
    if named:
        files = [path for path, name in named.items() if name == split.lower()]
    if not files:
        raise UserError(f"{folder}: has no files of split {split!r}, only of {_listed(named.values())}; set 'split'")
    rows = (row for path in files for row in _read_file(path))
    return (row._replace(number=number) for number, row in enumerate(rows, 1))


def _read_saved(folder: Path, split: str) -> Iterator[Row]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever the library and pyarrow raise for a folder that is not whole
        raise UserError(f"{folder}: cannot be read as a data set of save_to_disk ({first_line(error)})") from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UserError(f"{folder}: has no split {split!r}, only {_listed(saved)}; set 'split'")
        saved = saved[split]
    return _numbered(str(folder), saved)


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(iterate_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON ({error.msg}); write one JSON object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: holds {type(row).__name__}, not an object; write one JSON object a line")
        yield Row(where, number, row)


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(FIELD_LIMIT)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(
                        f"{where}: not {len(reader.fieldnames or [])} fields as in the header; mend the row"
                    )
                yield Row(where, reader.line_num, row)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.reader.line_num}: malformed CSV ({error}); mend the row") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({first_line(error)})") from None
    return _numbered(str(path), table.to_pylist())


def _read_hub(name: str, config: str | None, split: str) -> Iterator[Row]:
    import datasets

    place = mirrored_path(name)
    try:
        with hub_or_cache():
            rows = datasets.load_dataset(place, config, split=split)
    except Exception as error:  # the library raises a dozen kinds; each means that this name cannot be loaded
        what = f"hub data set {name} (config {config}, split {split}), looked for at {tried_places(name)}"
        raise UserError(f"{what}: {first_line(error)}") from error
    return _numbered(name, rows)


def _numbered(source: str, rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    return (Row(f"{source}:row {number}", number, values) for number, values in enumerate(rows, 1))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
