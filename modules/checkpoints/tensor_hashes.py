"""The tensors of a safetensors file: the place and the sha256 of each.

A tensor is hashed once per process, by its first reader, until the file's size or time changes: tensors that a merge
has read cost no second read when its models are identified.
"""

import hashlib
import json
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from modules.errors import UserError

BLOCK = 1 << 20
"""Bytes that are read and hashed at a time."""


class Entry(NamedTuple):
    """A tensor's entry in the header of a file.

    Args:
        dtype: the format's code for it, ``F32`` for one.
        shape: of the tensor.
        start: its first byte in the file.
        end: the byte after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class TensorHash(NamedTuple):
    """The hash of a tensor, which tells it from other tensors.

    Args:
        dtype: as in `Entry`.
        shape: of the tensor.
        sha256: of its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


def open_safetensors(path: Path) -> tuple[FileIO, dict[str, Entry]]:
    """Open a safetensors file, unbuffered.

    Returns:
        The file, and its tensors by key, in the order of the file.

    Raises:
        UserError: the file cannot be read, is not in this format, or is cut short.
    """
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return file, _read_header(file, path)
    except UserError:
        file.close()
        raise


def _read_header(file: FileIO, path: Path) -> dict[str, Entry]:
    size = path.stat().st_size
    length = int.from_bytes(file.read(8), "little")
    try:
        if 8 + length > size:
            raise ValueError
        header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {
            key: Entry(entry["dtype"], tuple(entry["shape"]), *(8 + length + place for place in entry["data_offsets"]))
            for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no safetensors file; fetch or save it again") from error
    last = max((entry.end for entry in tensors.values()), default=8 + length)
    if last > size:
        raise UserError(f"{path} is cut short: it has {size} bytes of {last}; fetch or save it again")
    return tensors


def known_hashes(path: Path) -> dict[str, str]:
    """Return the sha256 of a file's tensors by key, as far as they are known; a reader adds missing hashes."""
    stat = path.stat()
    return _known_hashes(path.absolute(), stat.st_size, stat.st_mtime_ns)


@cache
def _known_hashes(path: Path, size: int, changed: int) -> dict[str, str]:
    return {}  # the dictionary of this file, which the cache keeps


def hash_tensors(path: Path) -> dict[str, TensorHash]:
    """Return the hash of every tensor of a safetensors file, by key.

    Raises:
        UserError: the file cannot be read, is not in this format, or is cut short.
    """
    file, tensors = open_safetensors(path)
    known = known_hashes(path)
    with file:
        for key, entry in tensors.items():
            if key not in known:
                known[key] = _hash(file, entry, path)
    return {key: TensorHash(entry.dtype, entry.shape, known[key]) for key, entry in tensors.items()}


def _hash(file: FileIO, entry: Entry, path: Path) -> str:
    digest, left = hashlib.sha256(), entry.end - entry.start
    view = memoryview(bytearray(min(BLOCK, left)))
    file.seek(entry.start)
    while left:
        count = file.readinto(view[: min(BLOCK, left)])
        if not count:
            raise UserError(f"{path} ended while it was read; it was changed meanwhile")
        digest.update(view[:count])
        left -= count
    return digest.hexdigest()
