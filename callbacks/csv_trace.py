"""A CSV file with rows of optimiser steps, which a resumed run goes on with."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class CsvTrace:
    """Writes rows of a run, whose first column is the optimiser step, to a CSV file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, columns: Sequence[str], step: int) -> None:
        """Write the names of the columns and keep the rows of steps before `step`, where this part of the run starts.

        Later rows were written after the checkpoint that the run goes on from.
        """
        kept = self._rows_before(step, len(columns)) if self.path.exists() else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *kept])

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)

    def _rows_before(self, step: int, columns: int) -> list[list[str]]:
        """Whole rows only: the last may have been broken off."""
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in list(csv.reader(file))[1:] if len(row) == columns]
        return [row for row in rows if int(row[0]) < step]
