"""Rows of a file (JSON lines, CSV, Parquet) or of a hub data set, each with the place it was read from."""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from datamodules.mirror import hub_or_cache, mirrored_path, tried_places
from modules.errors import UserError, first_line

Row = tuple[str, dict[str, Any]]
"""Where a row stands (``file:line``) and its columns."""


def read_rows(source: str, config: str | None = None, split: str = "train") -> list[Row]:
    """Rows of ``source``: the path of an existing file, or the name of a hub data set.

    Raises:
        UserError: nothing of that name is found, the format is unknown, or a row cannot be read.
    """
    path = Path(source).expanduser()
    reader = next((reader for suffix, reader in READERS.items() if source.endswith(suffix)), None)
    if path.is_file():
        if reader is None:
            raise UserError(f"{source}: unknown format; give a file that ends in {', '.join(READERS)}")
        try:
            return list(reader(path))
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: cannot be read ({first_line(error)}); mend the file") from None
    if reader is None and source.count("/") == 1 and not source.startswith((".", "/", "~")) and not path.exists():
        return list(_read_hub(source, config, split))
    raise UserError(
        f"data source {source!r}: no such file (looked for {path.absolute()}) and not a hub data set org/name; "
        "give python_docs, a data file or a hub name"
    )


def _open(path: Path) -> IO[str]:
    return cast(IO[str], (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8"))


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: not valid JSON ({error.msg}); write one JSON object a line") from None
            if not isinstance(row, dict):
                raise UserError(f"{where}: holds {type(row).__name__}, not an object; write one JSON object a line")
            yield where, row


def _read_csv(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(
                        f"{where}: not {len(reader.fieldnames or [])} fields as in the header; mend the row"
                    )
                yield where, row
        except csv.Error as error:
            raise UserError(f"{path}:{reader.reader.line_num}: malformed CSV ({error}); mend the row") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({first_line(error)})") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}:row {number}", row


def _read_hub(name: str, config: str | None, split: str) -> Iterator[Row]:
    import datasets

    place = mirrored_path(name)
    try:
        with hub_or_cache():
            rows = datasets.load_dataset(place, config, split=split)
    except Exception as error:  # the library raises a dozen kinds; each means that this name cannot be loaded
        what = f"hub data set {name} (config {config}, split {split}), looked for at {tried_places(name)}"
        raise UserError(f"{what}: {first_line(error)}") from error
    for number, row in enumerate(rows, 1):
        yield f"{name}:row {number}", row


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
