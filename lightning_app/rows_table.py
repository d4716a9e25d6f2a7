"""Which rows of each data set train, probe and validate, and which are left out for what reason."""

from collections.abc import Iterable

from datamodules import SplitTask

HEADER = ("data set", "read", "expert", "probe", "validation", "left out", "why")
"""Names of the columns of `rows_cells`."""


def rows_cells(split: SplitTask) -> list[str]:
    """Return the row of a data set under `HEADER`; a part that is smaller than it was wanted says so."""
    parts = [
        f"{len(part):,}" if len(part) == wanted else f"{len(part):,} of {wanted:,}"
        for part, wanted in zip((split.probe, split.validation), split.requested, strict=True)
    ]
    why = ", ".join(f"{reason}: {rows:,}" for reason, rows in split.left_out.items())
    left_out = sum(split.left_out.values())
    return [split.name, f"{split.read:,}", f"{len(split.expert):,}", *parts, f"{left_out:,}", why]


def rows_notes(splits: Iterable[SplitTask]) -> list[str]:
    """Return what was taken how, or reduced, while data sets were read and split, one line each."""
    return [f"{split.name}: {note}" for split in splits for note in split.notes]
