"""The table of models by tasks."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from lightning_app.report.table import Table

CAPTION = "Main scores x 100, the best of each column in bold."

PROBE_NOTE = (
    "probe: mean loss on the probe-validation rows relative to the base's, on which the verdict chooses. A fit knows "
    "that of the base and of merges that were learned or tuned there; a study takes that of every model."
)


def scores_table(
    scores: Mapping[str, Mapping[str, float]], caption: str = "", objectives: Mapping[str, float] | None = None
) -> Table:
    """Return models by tasks; the best of each column is bold.

    Args:
        scores: model to task to score; of no task: nothing was scored.
        caption: of the table.
        objectives: model to its loss on the probe-validation rows, where it is known; None: without that column.
    """
    values = {name: {**of, "average": fmean(of.values())} if of else {} for name, of in scores.items()}
    columns = list(next(iter(values.values())))
    numbers = [[of[column] for column in columns] for of in values.values()]
    rows = [[name, *(f"{of[column]:.2f}" for column in columns)] for name, of in values.items()]
    header, notes = ["model", *columns], []
    if objectives:
        header, notes = [*header, "probe"], [PROBE_NOTE]
        rows = [[*row, f"{objectives[row[0]]:.4f}" if row[0] in objectives else ""] for row in rows]
    return Table(caption, header, rows, best_cells(numbers), notes)


def best_cells(values: Sequence[Sequence[float]]) -> set[tuple[int, int]]:
    """Return row and column of the highest value of each column, in a table whose first column is a name."""
    columns = list(zip(*values, strict=True))
    return {(i, 1 + j) for j, column in enumerate(columns) for i, value in enumerate(column) if value == max(column)}
