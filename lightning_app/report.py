"""The table at the end: every model by every task, what was found, and what it took."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean


@dataclass(frozen=True)
class ReportRow:
    """One model.

    Args:
        name: of the model.
        scores: task to main score x 100.
        training: seconds that its own stage took, that of the models it is made of aside.
        scoring: seconds that scoring took.
    """

    name: str
    scores: dict[str, float]
    training: float
    scoring: float


@dataclass(frozen=True)
class FoundPosition:
    """What a learned merge found.

    Args:
        name: of the model.
        objective: the best mean relative loss on the probe-validation rows; the base has 1.
        position: as `MergeModule.describe_position` gives it.
    """

    name: str
    objective: float
    position: dict[str, float]


def report(title: str, rows: Sequence[ReportRow], positions: Sequence[FoundPosition], notes: Sequence[str]) -> str:
    """The report in Markdown, which reads well on a screen too.

    Args:
        title: its heading.
        rows: the models.
        positions: of those that were learned.
        notes: lines under the tables.
    """
    parts = [f"# {title}", score_table(rows)]
    if positions:
        parts += ["Positions found:", position_table(positions)]
    parts += [f"- {note}" for note in notes]
    return "\n\n".join(parts) + "\n"


def score_table(rows: Sequence[ReportRow]) -> str:
    """Models by tasks; the best of each column is bold."""
    tasks = list(rows[0].scores) if rows else []
    columns = [[row.scores[task] for row in rows] for task in tasks]
    if tasks:
        columns.append([fmean(row.scores.values()) for row in rows])
    cells = [[f"**{v:.2f}**" if v == max(column) else f"{v:.2f}" for v in column] for column in columns]
    table = [
        [row.name, *(column[i] for column in cells), f"{row.training:.0f}", f"{row.scoring:.0f}"]
        for i, row in enumerate(rows)
    ]
    return markdown_table(["model", *tasks, *(["average"] if tasks else []), "training s", "scoring s"], table)


def position_table(positions: Sequence[FoundPosition]) -> str:
    """Learned merges by their numbers: free coefficients ``a``, factors ``c`` of the task vectors, scale."""
    names = list(positions[0].position)
    table = [[p.name, *(f"{p.position[n]:.3f}" for n in names), f"{p.objective:.4f}"] for p in positions]
    return markdown_table(["model", *names, "objective"], table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; all but the first are right-aligned."""
    widths = [max(len(str(line[i])) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def write_report(folder: Path, text: str) -> Path:
    """Write ``report.md`` and return its path."""
    path = folder / "report.md"
    path.write_text(text, encoding="utf-8")
    return path
