"""Counts of the rows of each data set that train, probe and validate, or are left out, and texts shared with tasks."""

from collections.abc import Iterable, Mapping, Sequence

from datamodules import SplitTask
from datamodules.decontamination import Overlap
from lightning_app.report.table import Table
from modules.encoding.prompts import SidePrompts, describe_prompts, folder_prompts, prompts_by_side

HEADER = ("data set", "read", "expert", "probe", "validation", "left out", "why")
"""Names of the columns of `rows_cells`."""

OVERLAP_LEGEND = (
    "Texts of the tasks that are also training rows (`exact`: letter by letter; `normalised`: also up to case, white "
    "space and punctuation):"
)


def data_table(data: Sequence[SplitTask], prompts: SidePrompts, caption: str = "") -> Table:
    """Return the table of the data sets by what becomes of their rows, and what is to be said about them.

    Args:
        data: the data sets.
        prompts: of the base.
        caption: of the table.
    """
    return Table(caption, HEADER, list(map(rows_cells, data)), notes=rows_notes(data, prompts))


def shared_texts_table(overlaps: Mapping[str, Overlap], caption: str = "") -> Table:
    """Return the table of tasks by what their texts share with the training rows.

    Args:
        overlaps: task to what it shares.
        caption: of the table.
    """
    rows = [[name, *(f"{count:,}" for count in (o.texts, o.exact, o.normalised))] for name, o in overlaps.items()]
    return Table(caption, ["task", "texts", "exact", "normalised"], rows)


def rows_cells(split: SplitTask) -> list[str]:
    """Return the row of a data set under `HEADER`; a part that is smaller than it was wanted says so."""
    parts = [
        f"{len(part):,}" if len(part) == wanted else f"{len(part):,} of {wanted:,}"
        for part, wanted in zip((split.probe, split.validation), split.requested, strict=True)
    ]
    why = ", ".join(f"{reason}: {rows:,}" for reason, rows in split.left_out.items())
    left_out = sum(split.left_out.values())
    return [split.name, f"{split.read:,}", f"{len(split.expert):,}", *parts, f"{left_out:,}", why]


def rows_notes(splits: Iterable[SplitTask], prompts: SidePrompts) -> list[str]:
    """Return the prompts of data sets, and what was taken how, or reduced, while they were read and split.

    Args:
        splits: the data sets.
        prompts: of the base, where data sets have none of their own.
    """
    return [
        f"{split.name}: {note}"
        for split in splits
        for note in (describe_prompts(split.expert.with_prompts(prompts).side_prompts()), *split.notes)
    ]


def prompts_of(base: str) -> SidePrompts:
    """Return the prompts of a folder or hub name."""
    return prompts_by_side(*folder_prompts(base))
