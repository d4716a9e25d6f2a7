"""Rows of Parquet and Arrow files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from datamodules.sources.row_blocks import BLOCK_ROWS, Block, arrow_blocks
from modules.errors import UserError, first_line


def parquet_names(path: Path) -> set[str]:
    """Return the names of the columns of a Parquet file."""
    with _readable(path, "Parquet"):
        return set(pyarrow.parquet.read_schema(path).names)


def parquet_rows(path: Path) -> Iterator[Block]:
    """Yield the rows of a Parquet file."""
    with _readable(path, "Parquet"), pyarrow.parquet.ParquetFile(path) as file:
        yield from arrow_blocks(str(path), file.iter_batches(BLOCK_ROWS))


def arrow_names(path: Path) -> set[str]:
    """Return the names of the columns of an Arrow file."""
    with _readable(path, "Arrow"), pa.memory_map(str(path)) as file:
        return set(_reader(file).schema.names)


def arrow_rows(path: Path) -> Iterator[Block]:
    """Yield the rows of an Arrow file: of the file format, which is also that of Feather, or of the stream format."""
    with _readable(path, "Arrow"), pa.memory_map(str(path)) as file:
        yield from arrow_blocks(str(path), _batches(_reader(file)))


def _reader(file: pa.MemoryMappedFile) -> Any:
    try:
        return pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_stream(file)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return map(reader.get_batch, range(reader.num_record_batches))
    return iter(reader)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Raise errors of pyarrow within the block as mistakes in the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable {what} file ({first_line(error)}); mend the file") from None
