"""Lines of text files, plain or compressed: they end at a line feed, with or without a carriage return before it."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from modules.errors import UserError, first_line


def read_lines(path: Path) -> list[str]:
    """Return all lines of a UTF-8 file, without their ends and without the file's byte order mark.

    A character that only some libraries take for a line's end (U+2028, U+0085, a form feed, a carriage return alone)
    is part of its line, so there are as many lines as ``wc -l`` counts, and one more if the last has no end.

    Args:
        path: of the file; it is decompressed if it ends in ``.gz``.

    Raises:
        UserError: there is no such file, or it is not UTF-8.
    """
    return list(iterate_lines(path))


def iterate_lines(path: Path) -> Iterator[str]:
    """Yield the lines of `read_lines` while reading.

    Args:
        path: of the file.

    Raises:
        UserError: as `read_lines`.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); mend the file") from None
