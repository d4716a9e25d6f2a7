"""Pairs whose positives or negatives are lists: one row for each positive, and as many negatives in every row."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.row_files import Row
from datamodules.row_values import text, texts


@dataclass
class Pairs:
    """Pairs by column.

    Args:
        names: of the text columns: ``anchor``, ``positive`` and those of the negatives.
        texts: the columns.
        rows: of each pair, the row that it was read from.
        notes: what was taken how, one line each.
    """

    names: list[str]
    texts: list[list[str]]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def read_pairs(rows: Sequence[Row], columns: dict[str, str], negatives: Sequence[str]) -> Pairs:
    """Take a row apart for each of its positives, and keep as many negatives as every row has.

    Args:
        rows: as they were read.
        columns: ``anchor``, ``positive`` and each of ``negatives`` -> column of the source.
        negatives: names of the columns of negatives, each with a text or a list of texts, or empty in some rows.

    Raises:
        UserError: a row has no anchor or no positive, or something that is no text.
    """
    of_rows = [[one for name in negatives for one in texts(row, columns[name])] for row in rows]
    counts = [len(found) for found in of_rows]
    kept = min(counts)
    pairs = [
        (row, [text(row, columns["anchor"]), positive, *found[:kept]])
        for row, found in zip(rows, of_rows, strict=True)
        for positive in texts(row, columns["positive"]) or [text(row, columns["positive"])]
    ]
    names = list(negatives) if kept == max(counts) == len(negatives) else [f"negative_{i + 1}" for i in range(kept)]
    notes = []
    if len(pairs) > len(rows):
        notes.append(f"{len(rows):,} rows with lists of positives are {len(pairs):,} pairs")
    if kept < max(counts):
        notes.append(
            f"{sum(counts) - kept * len(rows):,} of {sum(counts):,} negatives are left out: every row keeps {kept}, as "
            f"many as {rows[counts.index(kept)].where} has; give all rows the same number"
        )
    columns_of_texts = [list(column) for column in zip(*(found for _, found in pairs), strict=True)]
    return Pairs(["anchor", "positive", *names], columns_of_texts, [row for row, _ in pairs], notes)
