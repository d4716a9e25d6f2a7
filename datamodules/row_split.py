"""The split of the rows of data sets into parts: worked out once, and kept."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.cut import Cut
from datamodules.decontamination import rows_of_tasks
from datamodules.groups import Rows
from datamodules.held_out import HeldOut
from datamodules.row_cache import prepared
from datamodules.task_data import TaskData
from datamodules.text_ids import TextIds

VERSION = 1
"""Raised when the same rows are split otherwise than before."""

PARTS = ("expert", "probe", "validation")


@dataclass(frozen=True)
class RowSplit:
    """The rows of one data set by part, counted from 0.

    Args:
        expert: rows to train on, in their order.
        probe: rows to learn a position on; the first k are the probe of size k.
        validation: rows to choose on.
        left_out: reason to the number of rows that are in no part for it.
        notes: what was taken how, or reduced, one line each.
    """

    expert: Rows
    probe: Rows
    validation: Rows
    left_out: dict[str, int]
    notes: list[str]


def split_rows(
    data: Mapping[str, TaskData], sizes: Mapping[str, tuple[int, int]], seed: int, decontaminate: Mapping[str, TextIds]
) -> dict[str, RowSplit]:
    """Split every data set in three; see `datamodules.splits.load_tasks`.

    Args:
        data: all rows of each data set.
        sizes: probe and validation rows that are wanted of each.
        seed: of the order of the groups.
        decontaminate: MTEB task to what `evaluated_ids` gives of its texts, whose rows are left out.

    Raises:
        UserError: no row can be held out of a data set that rows are to be held out of.
    """
    rows = [
        [
            task.kind,
            [column.digest() for column in task.texts],
            None if task.groups is None else task.groups.digest(),
            sizes[name],
        ]
        for name, task in data.items()
    ]
    tasks = {task: hashlib.sha256(ids.tobytes()).hexdigest() for task, ids in decontaminate.items()}
    key = hashlib.sha256(json.dumps([VERSION, rows, seed, tasks]).encode()).hexdigest()
    folder = prepared(f"split-{key}", partial(_write, data, sizes, seed, decontaminate))
    return dict(zip(data, _read(folder), strict=True))


def work_out(
    data: Mapping[str, TaskData], sizes: Mapping[str, tuple[int, int]], seed: int, decontaminate: Mapping[str, TextIds]
) -> dict[str, RowSplit]:
    """Split every data set in three, whatever is kept; see `split_rows`."""
    clean = {name: _Clean(task, decontaminate) for name, task in data.items()}
    allowed = {name: _at_most_a_third(len(task.rows), *sizes[name]) for name, task in clean.items()}
    cuts = {name: Cut(task.data, seed) for name, task in clean.items()}
    held_out = HeldOut()
    validation = {name: cut.hold_out(allowed[name][1], 0.5) for name, cut in cuts.items()}
    _leave_out_elsewhere(held_out, validation, cuts)
    probe = {name: cut.hold_out(allowed[name][0], 1.0) for name, cut in cuts.items()}
    _leave_out_elsewhere(held_out, probe, cuts)
    return {
        name: RowSplit(
            clean[name].rows[cut.rest()],
            clean[name].rows[probe[name]],
            clean[name].rows[validation[name]],
            clean[name].left_out | cut.left_out,
            [*cut.notes, *_reduction(len(clean[name].rows), *sizes[name])],
        )
        for name, cut in cuts.items()
    }


class _Clean:
    """The rows of a data set that have no text of an evaluation.

    Args:
        data: all rows.
        tasks: name to the numbers of its texts.
    """

    def __init__(self, data: TaskData, tasks: Mapping[str, TextIds]) -> None:
        found = rows_of_tasks(data, tasks) if tasks else {}
        counts = {f"texts of {task}": int(rows.sum()) for task, rows in found.items()}
        self.left_out = {reason: rows for reason, rows in counts.items() if rows}
        self.rows: Rows = np.flatnonzero(~np.any(list(found.values()), axis=0)) if found else np.arange(len(data))
        self.data = data.subset(self.rows) if self.left_out else data


def _at_most_a_third(rows: int, probe: int, validation: int) -> tuple[int, int]:
    """Both sizes, scaled down together if they are more than a third of the rows."""
    allowed, wanted = rows // 3, probe + validation
    return (probe, validation) if wanted <= allowed else (probe * allowed // wanted, validation * allowed // wanted)


def _reduction(rows: int, probe: int, validation: int) -> list[str]:
    if (probe, validation) == _at_most_a_third(rows, probe, validation):
        return []
    return [
        f"{probe:,} probe and {validation:,} validation rows are wanted, and at most a third of {rows:,} is held out"
    ]


def _leave_out_elsewhere(held_out: HeldOut, parts: Mapping[str, Rows], cuts: Mapping[str, Cut]) -> None:
    """Add a part of every data set to what is held out, and leave that out of what the others have left."""
    for name, rows in parts.items():
        held_out.add(name, cuts[name].rows, rows, cuts[name].begun)
    for cut in cuts.values():
        cut.leave_out(held_out)


def _write(
    data: Mapping[str, TaskData],
    sizes: Mapping[str, tuple[int, int]],
    seed: int,
    decontaminate: Mapping[str, TextIds],
    folder: Path,
) -> None:
    splits = list(work_out(data, sizes, seed, decontaminate).values())
    rows = {f"{part}-{number}": vars(split)[part] for number, split in enumerate(splits) for part in PARTS}
    np.savez(folder / "rows.npz", **rows)
    said = [[split.left_out, split.notes] for split in splits]
    (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")


def _read(folder: Path) -> list[RowSplit]:
    said = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    with np.load(folder / "rows.npz") as rows:
        return [
            RowSplit(
                rows[f"expert-{number}"],
                rows[f"probe-{number}"],
                rows[f"validation-{number}"],
                left_out=why,
                notes=notes,
            )
            for number, (why, notes) in enumerate(said)
        ]
