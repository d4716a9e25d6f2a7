"""Streamed safetensors: one tensor at a time, from any shard into memory and from memory to any shard.

Files are read with ``preadv``, not mapped, because mapped pages count as the memory of a process. Tensors are hashed
while they are read, so that the identity of a model costs no second read.
"""

import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import torch
from torch import Tensor

from modules.checkpoints.tensor_hashes import Entry, known_hashes, open_safetensors
from modules.errors import UserError
from modules.json_files import path_within

CHUNK = 1 << 17
"""Entries that are converted, checked and hashed at a time: they are held beside a tensor, and fit a cache."""

MAX_SHARD_BYTES = 5 * 10**9
"""Default for the largest size of a file of weights."""

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes of safetensors that a merge can carry."""

CODES = {dtype: code for code, dtype in DTYPES.items()}


class TensorInfo(NamedTuple):
    """The dtype, shape and place of a tensor in a file.

    Args:
        dtype: of its entries.
        shape: of the tensor.
        start: its first byte in the file.
        end: the byte after its last.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """The number of entries."""
        return torch.Size(self.shape).numel()


class TensorFile:
    """A safetensors file.

    Args:
        path: of the file.

    Raises:
        UserError: the file is not in this format, is cut short, or has a dtype that cannot be merged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, entries = open_safetensors(path)
        self.tensors = {key: self._info(key, entry) for key, entry in entries.items()}
        """Key to tensor, in the order of the file."""
        self._hashes = known_hashes(path)
        self._begun: dict[str, tuple[hashlib._Hash, int]] = {}
        self._finite: set[str] = set()

    def _info(self, key: str, entry: Entry) -> TensorInfo:
        if entry.dtype not in DTYPES:
            raise UserError(f"{self.path}: {key} is {entry.dtype}: quantised weights cannot be merged")
        return TensorInfo(DTYPES[entry.dtype], entry.shape, entry.start, entry.end)

    def read(self, key: str, out: Tensor | None = None, start: int = 0) -> Tensor:
        """Read one tensor, or a part of it; several threads may read different tensors at the same time.

        Args:
            key: its name in the file.
            out: contiguous, of any float dtype, to read into; None: a new tensor of its shape in the file's dtype.
            start: the tensor's entry that `out` begins with. A tensor is hashed if its parts are read in their order.

        Returns:
            `out`, or the new tensor.

        Raises:
            UserError: an entry is NaN or infinite.
        """
        info = self.tensors[key]
        out = torch.empty(info.shape, dtype=info.dtype) if out is None else out
        digest = None if key in self._hashes else self._digest(key, start)
        place = info.start + start * info.dtype.itemsize
        spare = torch.empty(0 if out.dtype == info.dtype else min(CHUNK, info.size), dtype=info.dtype)
        for part in out.view(-1).split(CHUNK):
            taken = part if out.dtype == info.dtype else spare[: len(part)]
            self._fill(taken, place, digest)
            place += taken.nbytes
            if key not in self._finite and not _is_finite(taken):
                raise UserError(f"{self.path}: {key} has NaN or infinite entries; this model is broken, leave it out")
            if taken is not part:
                part.copy_(taken)
        if digest is not None:
            self._begun[key] = digest, start + out.numel()
        if start + out.numel() == info.size:
            self._finite.add(key)
            if digest is not None:
                self._hashes[key] = self._begun.pop(key)[0].hexdigest()
        return out

    def _digest(self, key: str, start: int) -> "hashlib._Hash | None":
        """Return the hash of a tensor's entries before `start`; None where they were not read in their order."""
        begun, end = self._begun.get(key, (None, 0)) if start else (hashlib.sha256(), 0)
        return begun if end == start else None

    def _fill(self, part: Tensor, place: int, digest: "hashlib._Hash | None") -> None:
        """Read bytes from a place in the file, and hash them."""
        view = part.view(torch.uint8).numpy().data
        filled = 0
        while filled < len(view):  # a raw file may give less than it was asked for
            count = os.preadv(self._file.fileno(), [view[filled:]], place + filled)
            if not count:
                raise UserError(f"{self.path} ended while it was read; it was changed meanwhile")
            filled += count
        if digest is not None:
            digest.update(view)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_weights(folder: Path) -> list[TensorFile]:
    """Open a folder's weights; see `weight_files`.

    Raises:
        UserError: there are no weights, or a shard is missing.
    """
    return [TensorFile(path) for path in weight_files(folder)]


def weight_files(folder: Path) -> list[Path]:
    """Return a folder's files of weights, a single file or shards with an index, in the order of their names.

    Raises:
        UserError: there are no weights, a shard lies outside the folder, or an adapter lies beside the weights, which
            some loaders would read in their place.
    """
    adapter, whole = (folder / "adapter_config.json").is_file(), any((folder / n).is_file() for n in (SINGLE, INDEX))
    if adapter and not whole:
        raise UserError(f"{folder} holds an adapter only; give the model that it adapts, and the adapter as an expert")
    if adapter:
        raise UserError(f"{folder} holds both a model and an adapter; remove the files of the one that is not meant")
    found = stored_weights(folder)
    if not found:
        raise UserError(
            f"{folder} has no weights as {SINGLE} or shards; save the model as safetensors (no pickles are read)"
        )
    return found


def stored_weights(folder: Path) -> list[Path]:
    """Return a folder's files of weights, as `weight_files`; an empty list where there are no weights.

    Raises:
        UserError: a shard lies outside the folder, or the index is broken.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    try:
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{folder / INDEX} is no index of shards; fetch or save the model again") from error
    return [path_within(folder, name, folder / INDEX) for name in sorted(names)]


def parse_size(text: str) -> int:
    """Return the number of bytes of ``5GB``, ``300MB``, ``2GiB`` or a plain number.

    Raises:
        UserError: the text is no such size above 0.
    """
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "B": 1, "": 1}
    number = text.rstrip("BKMGi ")
    try:
        size = int(float(number) * units[text[len(number) :].strip()])
    except (ValueError, KeyError) as error:
        raise UserError(f"max_shard_size is {text!r}; write a size as 5GB or 300MB") from error
    if size <= 0:
        raise UserError(f"max_shard_size is {text!r}; it is above 0")
    return size


Specs = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Key to dtype and shape of the tensors to write."""


def plan_shards(specs: Specs, max_bytes: int) -> list[list[str]]:
    """Spread tensors over files of at most `max_bytes`, in their order; a larger tensor has a file to itself."""
    shards: list[list[str]] = [[]]
    filled = 0
    for key, spec in specs.items():
        if shards[-1] and filled + _bytes(spec) > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += _bytes(spec)
    return shards


class CheckpointWriter:
    """Writes a folder's weights tensor by tensor, in any order; a context manager.

    Args:
        folder: made if absent.
        specs: all tensors that will be written.
        max_bytes: largest size of a shard.
    """

    def __init__(self, folder: Path, specs: Specs, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shards = plan_shards(specs, max_bytes)
        total = len(shards)
        names = [f"model-{i + 1:05d}-of-{total:05d}.safetensors" for i in range(total)] if total > 1 else [SINGLE]
        self._specs = specs
        self._left = {key: torch.Size(shape).numel() for key, (_, shape) in specs.items()}
        self._places: dict[str, tuple[BinaryIO, int]] = {}
        self._files = ExitStack()
        for name, keys in zip(names, shards, strict=True):
            self._start_shard(self._files.enter_context((folder / name).open("wb")), {key: specs[key] for key in keys})
        if total > 1:
            weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
            index = {"metadata": {"total_size": sum(map(_bytes, specs.values()))}, "weight_map": weight_map}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _start_shard(self, file: BinaryIO, specs: Specs) -> None:
        """Write the header. Wide dtypes come first, so that every tensor is aligned, as loaders require."""
        keys = sorted(specs, key=lambda key: -specs[key][0].itemsize)
        ends = list(itertools.accumulate(_bytes(specs[key]) for key in keys))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for key, start, end in zip(keys, [0, *ends], ends, strict=False):
            dtype, shape = specs[key]
            header[key] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        for key, start in zip(keys, [0, *ends], strict=False):
            self._places[key] = file, 8 + len(text) + start

    def write(self, key: str, tensor: Tensor, start: int = 0) -> None:
        """Write one tensor, or a part of it, cast to its dtype.

        Args:
            key: its name in the file.
            tensor: of its shape; or a part, flat.
            start: the entry that a part begins with.

        Raises:
            UserError: an entry is beyond what the dtype can hold.
        """
        (dtype, shape), (file, place) = self._specs[key], self._places[key]
        self._left[key] -= tensor.numel()
        assert self._left[key] >= 0, f"{key} is written twice"
        assert tensor.shape == shape or tensor.ndim == 1, f"{key} is {tuple(tensor.shape)}, not {shape}"
        file.seek(place + start * dtype.itemsize)
        for part in tensor.contiguous().view(-1).split(CHUNK):
            cast = part.to(dtype)
            if not _is_finite(cast):
                raise UserError(f"{key} has merged entries that {str(dtype)[6:]} cannot hold; use a wider --dtype")
            file.write(cast.view(torch.uint8).numpy())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._files.close()
        missing = [key for key, left in self._left.items() if left]
        assert kind is not None or not missing, f"not written: {', '.join(missing)}"


def _is_finite(part: Tensor) -> bool:
    if not part.dtype.is_floating_point or not len(part):
        return True
    return all(map(math.isfinite, torch.aminmax(part)))  # which are NaN if an entry is


def _bytes(spec: tuple[torch.dtype, tuple[int, ...]]) -> int:
    return spec[0].itemsize * torch.Size(spec[1]).numel()
