"""Checked rows on disk: written once, memory-mapped from then on."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.sources.clean_columns import clean_columns
from datamodules.sources.clean_rows import TEXT, LeftOut, clean_rows, instruction
from datamodules.sources.columns import find_columns
from datamodules.sources.data_source import DataSource
from datamodules.sources.row_blocks import RowSource
from datamodules.sources.row_writer import COUNT, FIRST, RowWriter
from datamodules.text_column import TextColumn
from modules.encoding.prompts import Side
from modules.errors import UserError
from modules.losses.task_batch import Kind

BELOW_MIN_SCORE = "below min_score"


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
    with RowWriter(folder, columns) as writer:
        for block in rows.blocks():
            clean = None
            if block.columns is not None and block.numbers is not None:
                clean = clean_columns(block.columns, block.numbers, columns, left_out)
            writer.add(clean_rows(block.rows(), columns, left_out) if clean is None else clean)
            if rows.enough is not None and writer.rows >= rows.enough:
                break
    if not writer.rows:
        raise UserError(f"{source.source}: {_none_left(source, left_out)}")
    about = writer.about()
    about["left_out"], skipped = _reasons(left_out)
    about["notes"] = [*rows.notes, *about["notes"], *skipped, *columns.notes]
    (folder / "about.json").write_text(json.dumps(about))


def _reasons(left_out: LeftOut) -> tuple[dict[str, int], list[str]]:
    """Reason to number of rows, and a note with an example of a bad row."""
    below = {BELOW_MIN_SCORE: left_out.below_min_score} if left_out.below_min_score else {}
    bad = {f"bad row ({reason})": rows for reason, rows in left_out.bad.items()}
    skipped = f"{sum(bad.values()):,} bad rows are skipped, the first: {left_out.first_bad}"
    return below | bad, [skipped] if bad else []


def _none_left(source: DataSource, left_out: LeftOut) -> str:
    if left_out.below_min_score:
        return f"no row has a score of {source.min_score} or more; lower min_score"
    if left_out.bad:
        return f"none of its {sum(left_out.bad.values()):,} rows can be used, the first: {left_out.first_bad}"
    return "has no rows; give a data set that has some"


def map_rows(folder: Path) -> PreparedRows:
    """Return what `write_rows` wrote."""
    about = json.loads((folder / "about.json").read_text())
    file = folder / "rows.arrow"
    rows = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    texts = [TextColumn.mapped(file, name) for name in about["texts"]]
    if about["negatives"]:
        negatives = TextColumn.mapped(folder / "negatives.arrow", "negative")
        texts += _negative_columns(rows, negatives, len(about["negatives"]))
    return PreparedRows(
        about["kind"],
        about["texts"] + about["negatives"],
        texts,
        _target(rows, about["labels"]),
        TextColumn.mapped(file, "group") if "group" in rows.column_names else None,
        rows["place"].to_numpy(),
        {side: TextColumn.mapped(file, instruction(side)) for side in about["instructions"]},
        about["left_out"],
        about["notes"],
    )


def _negative_columns(rows: pa.Table, texts: TextColumn, count: int) -> list[TextColumn]:
    """The negatives by column; a row that has fewer has the last text, which is empty, in the other columns."""
    first, counts, missing = rows[FIRST].to_numpy(), rows[COUNT].to_numpy(), len(texts) - 1
    return [texts.take(np.where(counts > column, first + column, missing)) for column in range(count)]


def _target(rows: pa.Table, labels: list[str]) -> NDArray[Any] | None:
    """The scores, or the numbers of the labels in alphabetic order."""
    if "target" not in rows.column_names:
        return None
    if not labels:
        return rows["target"].to_numpy()
    return pc.index_in(rows["target"], pa.array(labels, TEXT)).to_numpy().astype(np.int64)
