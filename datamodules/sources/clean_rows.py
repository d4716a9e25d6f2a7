"""Checked rows, of the columns that are read only, in one form for all sources; here row by row."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from datamodules.sources import row_values
from datamodules.sources.columns import Columns
from datamodules.sources.row_blocks import BadRow, Row

TEXT = pa.large_string()
TEXTS = pa.large_list(TEXT)


def clean_schema(columns: Columns) -> pa.Schema:
    """Return the form of checked rows.

    Pairs have the columns ``anchor``, ``positive`` and ``negative``, of which the last two hold lists; graded rows
    ``sentence1``, ``sentence2`` and ``target``, the score in [0, 1]; labelled ones ``text`` and ``target``, the name of
    the label. All have ``place``, and ``group`` and a column ``instruction`` per side where the source has them.

    Args:
        columns: which are read.
    """
    texts = {name: TEXTS if name == "positive" else TEXT for name in columns.texts}
    targets = {"graded": {"target": pa.float64()}, "labelled": {"target": TEXT}, "pairs": {"negative": TEXTS}}
    group = {"group": TEXT} if columns.group else {}
    instructions = {instruction(side): TEXT for side in columns.instructions}
    return pa.schema({**texts, **targets[columns.kind], **group, **instructions, "place": pa.int64()})


def instruction(side: str) -> str:
    """Return the name of the column that has the prompt of a side."""
    return f"{side} instruction"


@dataclass
class LeftOut:
    """Rows that were read and are not used.

    Args:
        skip_bad: whether a bad row is skipped, instead of being an error.
        below_min_score: number of rows.
        bad: reason to number of rows.
        first_bad: what is wrong with the first bad row.
    """

    skip_bad: bool
    below_min_score: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    first_bad: str = ""

    def skip(self, row: BadRow) -> None:
        """Count a bad row.

        Raises:
            BadRow: it is not to be skipped.
        """
        if not self.skip_bad:
            raise row
        self.first_bad = self.first_bad or str(row)
        self.bad[row.reason] += 1


def clean_rows(rows: Iterable[Row | BadRow], columns: Columns, left_out: LeftOut) -> pa.RecordBatch:
    """Check rows one by one.

    Args:
        rows: as they were read.
        columns: which are read of them.
        left_out: where rows are counted that are not used.

    Returns:
        The others, in the form of `clean_schema`.

    Raises:
        BadRow: something is wrong with a row, and it is not to be skipped.
    """
    cleaned = []
    for row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            if columns.min_score is None or row_values.reaches(row, columns.score, columns.min_score):
                cleaned.append(_clean(row, columns))
            else:
                left_out.below_min_score += 1
        except BadRow as bad:
            left_out.skip(bad)
    return pa.RecordBatch.from_pylist(cleaned, clean_schema(columns))


def _clean(row: Row, columns: Columns) -> dict[str, Any]:
    clean: dict[str, Any] = {"place": row.number}
    for name, column in columns.texts.items():
        if name == "positive":
            clean[name] = row_values.texts(row, column) or [row_values.text(row, column)]
        else:
            clean[name] = row_values.text(row, column)
    if columns.kind == "pairs":
        clean["negative"] = [text for column in columns.negatives.values() for text in row_values.texts(row, column)]
    elif columns.target is not None:
        graded = columns.kind == "graded"
        clean["target"] = (
            row_values.score(row, columns.target, columns.score_range)
            if graded
            else row_values.name(row, columns.target)
        )
    if columns.group is not None:
        clean["group"] = row_values.name(row, columns.group)
    for side, column in columns.instructions.items():
        clean[instruction(side)] = row_values.prompt(row, column)
    return clean
