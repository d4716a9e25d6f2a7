"""Differences between models, with their intervals, as tables show them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_app.report.significance import Difference, Row, Significance, significance
from lightning_app.report.table import Table

if TYPE_CHECKING:
    from mteb import AbsTask

LEGEND = (
    "Differences of main scores x 100 with 95 % intervals, by the paired bootstrap over the tasks' examples: the "
    "choice of test examples alone, not what a training's seed adds."
)


def gains(
    model: str,
    rows: Mapping[str, Row],
    tasks: "Sequence[AbsTask]",
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Significance]:
    """Return the name of every other row to the differences, the model minus it.

    Args:
        model: name of its row.
        rows: name to what was scored.
        tasks: on which all of them were scored, with their data.
        groups: see `significance`.
    """
    return {name: significance(tasks, row, rows[model], groups) for name, row in rows.items() if name != model}


def differences_table(caption: str, model: str, found: Mapping[str, Significance], tasks: Sequence[str]) -> Table:
    """Return a model minus other models, on the mean, on those of groups of tasks, and on each task.

    Args:
        caption: of the table.
        model: the one from which the others are subtracted.
        found: name of each other model to the differences.
        tasks: in the order of the columns.
    """
    rows = [
        [name, *map(shown, (of.average, *of.groups.values(), *(of.tasks[task] for task in tasks)))]
        for name, of in found.items()
    ]
    first = next(iter(found.values()))
    notes = [LEGEND + constant_tasks(first.constant)]
    return Table(
        caption, [f"{model} minus", "mean", *(f"mean {name}" for name in first.groups), *tasks], rows, notes=notes
    )


def shown(difference: Difference) -> str:
    """Return a difference and its interval, where that is known."""
    bounds = difference.interval
    return f"{difference.observed:+.2f}" + (f" ({bounds:+.2f})" if bounds else "")


def constant_tasks(names: Sequence[str]) -> str:
    """Return which tasks enter an interval as constants, as a sentence after another; empty: none."""
    return f" Constants, because their examples are not known: {', '.join(names)}." if names else ""
