"""Checked rows written to Arrow files, a block at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.sources.clean_rows import TEXT, clean_schema
from datamodules.sources.columns import Columns

LIKE_MISSING = {"na", "n/a", "nan", "none", "null"}
"""Labels that other programs write for a missing value."""

FIRST, COUNT = "first negative", "negatives"
"""Of each pair: where its negatives begin in the file of negatives, and how many there are."""


class RowWriter:
    """Writes checked rows, pairs with one row per positive and all negatives in a file of their own.

    Args:
        folder: to write into.
        columns: that the rows have.
    """

    def __init__(self, folder: Path, columns: Columns) -> None:
        self.columns, self.rows = columns, 0
        self._sources, self._negatives, self._counts = 0, 0, (np.iinfo(np.int64).max, 0)
        self._labels: set[str] = set()
        schema = clean_schema(columns)
        if columns.kind == "pairs":
            schema = pa.schema({name: TEXT if name == "positive" else schema.field(name).type for name in schema.names})
            schema = schema.remove(schema.get_field_index("negative"))
            schema = schema.append(pa.field(FIRST, pa.int64())).append(pa.field(COUNT, pa.int64()))
        self._schema = schema
        self._file = pa.ipc.new_file(str(folder / "rows.arrow"), schema)
        self._texts = pa.ipc.new_file(str(folder / "negatives.arrow"), pa.schema({"negative": TEXT}))

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._write_negatives(pa.array([""], TEXT))  # in the place of each that a row lacks
        self._file.close()
        self._texts.close()

    def add(self, rows: pa.RecordBatch) -> None:
        """Write rows.

        Args:
            rows: in the form of `clean_schema`.
        """
        if self.columns.kind == "labelled":
            self._labels.update(pc.unique(rows.column("target")).to_pylist())
        self._sources += len(rows)
        stored = self._one_per_positive(rows) if self.columns.kind == "pairs" else rows
        self._file.write_batch(stored)
        self.rows += len(stored)

    def _one_per_positive(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        positives, negatives = rows.column("positive"), rows.column("negative")
        counts = pc.list_value_length(negatives).to_numpy()
        firsts = self._negatives + np.concatenate([[0], np.cumsum(counts)])[:-1]
        self._write_negatives(negatives.flatten())
        if len(counts):
            self._counts = min(self._counts[0], int(counts.min())), max(self._counts[1], int(counts.max()))
        columns = {name: rows.column(name) for name in rows.schema.names if name in self._schema.names}
        columns |= {FIRST: pa.array(firsts, pa.int64()), COUNT: pa.array(counts, pa.int64())}
        owners = pc.list_parent_indices(positives)
        if len(owners) > len(rows):
            columns = {name: cells.take(owners) for name, cells in columns.items() if name != "positive"}
        return pa.RecordBatch.from_pydict(columns | {"positive": positives.flatten()}, self._schema)

    def _write_negatives(self, texts: pa.LargeStringArray) -> None:
        self._negatives += len(texts)
        self._texts.write_batch(pa.RecordBatch.from_arrays([texts], ["negative"]))

    def about(self) -> dict[str, Any]:
        """Return what is to be known of the files, and notes on what was taken how."""
        fewest, most = self._counts
        names, notes = list(self.columns.negatives), []
        if not fewest == most == len(names):
            names = [f"negative_{number + 1}" for number in range(most)]
        if self.rows > self._sources:
            notes.append(f"{self._sources:,} rows with lists of positives are {self.rows:,} pairs")
        if fewest < most:
            notes.append(f"rows have {fewest:,} to {most:,} negatives, and all of them are used")
        labels = sorted(self._labels)
        if odd := [label for label in labels if label.strip().lower() in LIKE_MISSING]:
            notes.append(f"taken as labels like any other, not as missing: {', '.join(map(repr, odd))}")
        columns = {"kind": self.columns.kind, "texts": list(self.columns.texts), "negatives": names}
        return columns | {"instructions": list(self.columns.instructions), "labels": labels, "notes": notes}
