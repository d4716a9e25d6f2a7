"""Checked rows on disk: written once, memory-mapped from then on."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.sources.clean_columns import clean_columns
from datamodules.sources.clean_rows import TEXT, LeftOut, clean_rows, clean_schema, instruction
from datamodules.sources.columns import Columns, find_columns
from datamodules.sources.data_source import DataSource
from datamodules.sources.row_blocks import RowSource
from datamodules.text_column import TextColumn
from modules.encoding.prompts import Side
from modules.errors import UserError
from modules.losses.task_batch import Kind

BELOW_MIN_SCORE = "below min_score"
LIKE_MISSING = {"na", "n/a", "nan", "none", "null"}
"""Labels that other programs write for a missing value."""

FIRST, COUNT = "first negative", "negatives"
"""Of each pair: where its negatives begin in the file of negatives, and how many there are."""


class PreparedRows(NamedTuple):
    """The rows of a source, memory-mapped.

    Args:
        kind: of rows.
        names: of the text columns.
        texts: the text columns.
        target: ``[rows]``, the score in [0, 1] or the number of the label; None for pairs.
        groups: which rows belong together, if the source says so.
        places: ``[rows]``, of the rows in the source.
        instructions: side to the prompt of every row.
        left_out: reason to number of rows.
        notes: what was taken how, one line each.
    """

    kind: Kind
    names: list[str]
    texts: list[TextColumn]
    target: NDArray[np.float64] | NDArray[np.int64] | None
    groups: TextColumn | None
    places: NDArray[np.int64]
    instructions: dict[Side, TextColumn]
    left_out: dict[str, int]
    notes: list[str]


def write_rows(folder: Path, source: DataSource, rows: RowSource) -> None:
    """Read and check all rows of a source.

    Args:
        folder: to write into.
        source: the description.
        rows: what it describes.

    Raises:
        UserError: for whatever is wrong with the columns or a row, or no row is left.
    """
    skip_bad = source.on_bad_row == "skip"
    left_out = LeftOut(skip_bad)
    names = rows.names(skip_bad)
    if not names:
        raise UserError(f"{source.source}: has no rows; give a data set that has some")
    columns = find_columns(source, names)
    with _Writer(folder, columns) as writer:
        for block in rows.blocks():
            clean = None
            if block.columns is not None and block.numbers is not None:
                clean = clean_columns(block.columns, block.numbers, columns, left_out)
            writer.add(clean_rows(block.rows(), columns, left_out) if clean is None else clean)
            if rows.enough is not None and writer.rows >= rows.enough:
                break
    if not writer.rows:
        raise UserError(f"{source.source}: {_none_left(source, left_out)}")
    below = {BELOW_MIN_SCORE: left_out.below_min_score} if left_out.below_min_score else {}
    skipped = sum(left_out.bad.values())
    bad = [f"{skipped:,} bad rows are skipped, the first: {left_out.first_bad}"] if skipped else []
    about = writer.about() | {"left_out": below | {f"bad row, {why}": n for why, n in left_out.bad.items()}}
    about["notes"] = [*rows.notes, *about["notes"], *bad, *columns.notes]
    (folder / "about.json").write_text(json.dumps(about))


def _none_left(source: DataSource, left_out: LeftOut) -> str:
    if left_out.below_min_score:
        return f"no row has a score of {source.min_score} or more; lower min_score"
    if left_out.bad:
        return f"none of its {sum(left_out.bad.values()):,} rows can be used, the first: {left_out.first_bad}"
    return "has no rows; give a data set that has some"


class _Writer:
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

    def __enter__(self) -> "_Writer":
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


def map_rows(folder: Path) -> PreparedRows:
    """Return what `write_rows` wrote."""
    about = json.loads((folder / "about.json").read_text())
    rows = _mapped(folder / "rows.arrow")
    texts = [TextColumn(rows[name]) for name in about["texts"]]
    if about["negatives"]:
        texts += _negative_columns(rows, _mapped(folder / "negatives.arrow")["negative"], len(about["negatives"]))
    return PreparedRows(
        about["kind"],
        about["texts"] + about["negatives"],
        texts,
        _target(rows, about["labels"]),
        TextColumn(rows["group"]) if "group" in rows.column_names else None,
        rows["place"].to_numpy(),
        {side: TextColumn(rows[instruction(side)]) for side in about["instructions"]},
        about["left_out"],
        about["notes"],
    )


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _negative_columns(rows: pa.Table, texts: pa.ChunkedArray, count: int) -> list[TextColumn]:
    """The negatives by column; a row that has fewer has the last text, which is empty, in the other columns."""
    first, counts, missing = rows[FIRST].to_numpy(), rows[COUNT].to_numpy(), len(texts) - 1
    whole = TextColumn(texts)
    return [whole.take(np.where(counts > column, first + column, missing)) for column in range(count)]


def _target(rows: pa.Table, labels: list[str]) -> NDArray[Any] | None:
    """The scores, or the numbers of the labels in alphabetic order."""
    if "target" not in rows.column_names:
        return None
    if not labels:
        return rows["target"].to_numpy()
    return pc.index_in(rows["target"], pa.array(labels, TEXT)).to_numpy().astype(np.int64)
