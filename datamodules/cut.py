"""The cut of a data set into parts that share no group."""

from collections import Counter
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from datamodules.groups import Rows
from datamodules.held_out import HeldOut, held_out_order
from datamodules.row_groups import RowGroups
from datamodules.task_data import TaskData
from modules.errors import UserError

REST_OF_GROUP = "rest of a held-out group"
HELD_OUT_ELSEWHERE = "held out of another data set"

ROOMS = (1 / 20, 1 / 10, 1 / 5, 1 / 3)
"""Fractions of the rows that may be left out to keep groups whole; the next only where groups are too large for one."""


class Cut:
    """Takes the parts of one data set off its ordered groups.

    Args:
        data: its rows.
        seed: of the order.
    """

    def __init__(self, data: TaskData, seed: int) -> None:
        self.data, self.rows = data, RowGroups(data)
        self.groups = self.rows.in_order(seed)
        self.left_out: Counter[str] = Counter()
        self.notes = list(self.rows.notes)
        self.begun: Rows = np.array([], np.int64)

    def hold_out(self, size: int, until: float) -> Rows:
        """Take ``size`` rows, or as many as the groups give.

        Args:
            size: how many rows.
            until: the fraction of each of `ROOMS` that may be used up once these rows are taken.

        Raises:
            UserError: the groups give none.
        """
        used = self.left_out[REST_OF_GROUP]
        rooms = [max(0, int(until * room * len(self.data)) - used) for room in ROOMS]
        taken = np.fromiter(islice(held_out_order(self.groups, rooms), size), np.int64)
        if len(taken) < size:
            self._say_shortage(size, len(taken))
        begun = self.groups.with_any(self._are(taken))
        self.begun = self.groups.take(np.flatnonzero(begun)).rows
        self.groups = self.groups.take(np.flatnonzero(~begun))
        self._count(REST_OF_GROUP, len(self.begun) - len(taken))
        return taken

    def leave_out(self, held_out: HeldOut) -> None:
        """Leave out what other data sets hold out."""
        kept = self.groups.without(held_out.holds(self.data.name, self.rows))
        self._count(HELD_OUT_ELSEWHERE, len(self.groups.rows) - len(kept.rows))
        self.groups = kept

    def rest(self) -> Rows:
        """Return the rows that are left, in their order."""
        return np.sort(self.groups.rows)

    def _are(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows of the data set are among these rows: ``[rows]``."""
        marked = np.zeros(len(self.data), dtype=np.bool_)
        marked[rows] = True
        return marked

    def _count(self, reason: str, rows: int) -> None:
        if rows:
            self.left_out[reason] += rows

    def _say_shortage(self, wanted: int, taken: int) -> None:
        sizes = self.rows.members.sizes
        groups = "one group" if len(sizes) == 1 else f"{len(sizes):,} groups, the largest of {sizes.max():,}"
        why = f"its {len(self.data):,} rows are {groups} ({self.rows.rule})"
        if self.left_out[HELD_OUT_ELSEWHERE]:
            why += f", and {self.left_out[HELD_OUT_ELSEWHERE]:,} rows are {HELD_OUT_ELSEWHERE}"
        if not taken:
            raise UserError(
                f"{self.data.name}: none of {wanted:,} rows can be held out: {why}, and no two parts share a group; "
                "give the rows a column 'group' that says which belong together"
            )
        self.notes.append(f"{taken:,} of {wanted:,} rows could be held out: {why}")
