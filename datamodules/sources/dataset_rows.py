"""Rows of data sets of the library ``datasets``: saved to disk, or on the hub."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.sources.mirror import hub_or_cache, mirrored_path, tried_places
from datamodules.sources.row_blocks import BLOCK_ROWS, Block, Row, RowSource, numbered, python_blocks
from modules.errors import UserError, first_line

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

SHUFFLED = 10_000
"""Rows of a stream among which the next is drawn."""


class DatasetRows:
    """The rows of a data set that is on this machine.

    Args:
        source: path or name, for messages.
        data: one split.
        notes: what was assumed, one line each.
    """

    def __init__(self, source: str, data: "Dataset", notes: list[str] | None = None) -> None:
        self.source, self.data = source, data
        self.notes = notes or []
        self.enough: int | None = None

    def identity(self) -> str:
        """Return the fingerprint that ``datasets`` keeps with the rows."""
        return str(self.data._fingerprint)

    def names(self, skip_bad: bool) -> set[str]:
        """Return the names of all columns."""
        return set(self.data.column_names)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows; one by one they are decoded, as columns only what needs no decoding is a text."""
        on_arrow = self.data.with_format("arrow")
        for start in range(0, len(self.data), BLOCK_ROWS):
            table = on_arrow[start : start + BLOCK_ROWS]
            yield Block(
                partial(self._rows, start, start + len(table)),
                table.combine_chunks().to_batches()[0],
                np.arange(start + 1, start + 1 + len(table)),
            )

    def _rows(self, start: int, stop: int) -> Iterator[Row]:
        return numbered(self.source, self.data.select(range(start, stop)), start + 1)


class StreamedRows:
    """The first rows of a shuffled stream of the hub.

    Args:
        source: name, for messages.
        stream: one split.
        identity: of its content.
        enough: rows to read.
    """

    def __init__(self, source: str, stream: "IterableDataset", identity: str, enough: int) -> None:
        self.source = source
        self.enough: int | None = enough
        self._stream, self._identity = stream, identity
        self.notes = [
            f"streamed until there were {enough:,} rows, each drawn among {SHUFFLED:,}; how many it has is not known"
        ]

    def identity(self) -> str:
        """Return the revision, and how many rows are read of it."""
        return f"{self._identity} {self.enough}"

    def names(self, skip_bad: bool) -> set[str]:
        """Return the names of all columns."""
        return set(self._stream.column_names or next(self._rows(), {}))

    def blocks(self) -> Iterator[Block]:
        """Yield the rows, no more at a time than are wanted."""
        return python_blocks(numbered(self.source, self._rows()), min(self.enough or BLOCK_ROWS, BLOCK_ROWS))

    def _rows(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._stream.shuffle(seed=0, buffer_size=SHUFFLED)
        except Exception as error:  # of the network, of the format, of the data
            raise UserError(f"hub data set {self.source}: cannot be streamed ({first_line(error)})") from error


def saved_rows(folder: Path, split: str) -> DatasetRows:
    """Return the rows of a data set that ``save_to_disk`` wrote.

    Args:
        folder: of a ``Dataset``, or of a ``DatasetDict``.
        split: of a ``DatasetDict``.

    Raises:
        UserError: it has no such split, or is not whole.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever the library and pyarrow raise for a folder that is not whole
        raise UserError(f"{folder}: cannot be read as a data set of save_to_disk ({first_line(error)})") from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UserError(f"{folder}: has no split {split!r}, only {', '.join(sorted(saved))}; set 'split'")
        saved = saved[split]
    return DatasetRows(str(folder), saved)


def hub_rows(name: str, config: str | None, split: str, revision: str | None, limit: int | None) -> RowSource:
    """Return the rows of a hub data set, from the mirror if it has a copy.

    Args:
        name: ``org/name``.
        config: one of several data sets under one name.
        split: ``train``, say.
        revision: branch, tag or commit.
        limit: rows that are wanted: no more are downloaded than it takes to draw them.

    Raises:
        UserError: it cannot be loaded.
    """
    import datasets

    place = mirrored_path(name)
    try:
        with hub_or_cache():
            if place == name and limit is not None and not datasets.config.HF_HUB_OFFLINE:
                stream = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
                return StreamedRows(name, stream, _commit(name, revision), limit)
            found = datasets.load_dataset(place, config, split=split, revision=revision)
    except Exception as error:  # the library raises a dozen kinds; each means that this name cannot be loaded
        what = f"hub data set {name} (config {config}, split {split}), looked for at {tried_places(name)}"
        raise UserError(f"{what}: {first_line(error)}") from error
    copied = revision is not None and place != name
    return DatasetRows(name, found, [f"read from {place}, whatever revision that is"] if copied else None)


def _commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(name, revision=revision).sha)
