"""A table that reads the same in Markdown and in HTML."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from modules.markdown import markdown_table


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Args:
        caption: one line above it.
        header: one name a column.
        rows: cells as they are shown, each row as long as `header`.
        bold: row and column, both from 0, of the cells that stand out.
        notes: lines under it.

    Raises:
        ValueError: a row has more or fewer cells than the header.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: Collection[tuple[int, int]] = frozenset()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"table '{self.caption}': {len(row)} cells under {len(self.header)} names: {row}")

    def markdown(self) -> str:
        """Caption, table and notes in Markdown."""
        rows = [
            [f"**{cell}**" if (i, j) in self.bold else cell for j, cell in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        parts = [self.caption, markdown_table(self.header, rows), "\n".join(f"- {note}" for note in self.notes)]
        return "\n\n".join(part for part in parts if part)
