"""Lines of text files, plain or compressed: they end at a line feed, with or without a carriage return before it."""

import gzip
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from modules.errors import UserError, first_line

PART = 1 << 22
"""Bytes that are read at a time."""


def read_lines(path: Path) -> list[str]:
    """Return all lines of a UTF-8 file, without their ends and without the file's byte order mark.

    A character that only some libraries take for a line's end (U+2028, U+0085, a form feed, a carriage return alone)
    is part of its line, so there are as many lines as ``wc -l`` counts, and one more if the last has no end.

    Args:
        path: of the file; it is decompressed if it ends in ``.gz`` or ``.zst``.

    Raises:
        UserError: there is no such file, or it is not UTF-8.
    """
    return list(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    for first, content in line_blocks(path):
        *ended, rest = content.split(b"\n")
        lines = [line.removesuffix(b"\r") for line in ended] + ([rest] if rest else [])
        for number, line in enumerate(lines, first):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from None


def line_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines with their ends, each with the number of its first line, counted from 1.

    Args:
        path: of the file.

    Raises:
        UserError: the file cannot be read.
    """
    first, rest = 1, b""
    with opened(path) as file:
        while part := file.read(PART):
            lines, end, rest = (rest + part).rpartition(b"\n")
            if end:
                yield first, (lines.removeprefix(BOM_UTF8) if first == 1 else lines) + end
                first += lines.count(b"\n") + 1
    if rest:
        yield first, rest.removeprefix(BOM_UTF8) if first == 1 else rest


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """In this block, the bytes of a file can be read, decompressed as the end of its name says.

    Args:
        path: of the file.

    Raises:
        UserError: there is no such file, it cannot be read, or what is decoded in the block is not UTF-8.
    """
    try:
        with _decompressed(path) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); mend the file") from None


def _decompressed(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return open(path, "rb")
