"""One data set, cut into parts that share no group."""

import hashlib
from collections import Counter
from itertools import islice

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
        members = self.rows.members
        self.groups = [members[group] for group in sorted(members, key=lambda group: _order(seed, group))]
        self.left_out: Counter[str] = Counter()
        self.notes = list(self.rows.notes)
        self.begun: list[int] = []

    def hold_out(self, size: int, until: float) -> list[int]:
        """Take ``size`` rows, or as many as the groups give.

        Args:
            size: how many rows.
            until: the fraction of each of `ROOMS` that may be used up once these rows are taken.

        Raises:
            UserError: the groups give none.
        """
        used = self.left_out[REST_OF_GROUP]
        rooms = [max(0, int(until * room * len(self.data)) - used) for room in ROOMS]
        taken = list(islice(held_out_order(self.groups, rooms), size))
        if len(taken) < size:
            self._say_shortage(size, len(taken))
        chosen = set(taken)
        begun = [group for group in self.groups if not chosen.isdisjoint(group)]
        self.groups = [group for group in self.groups if chosen.isdisjoint(group)]
        self.begun = [row for group in begun for row in group]
        self._count(REST_OF_GROUP, len(self.begun) - len(taken))
        return taken

    def leave_out(self, held_out: HeldOut) -> None:
        """Leave out what other data sets hold out."""
        kept = [[row for row in group if not held_out.holds(self.data.name, self.rows, row)] for group in self.groups]
        self._count(HELD_OUT_ELSEWHERE, sum(map(len, self.groups)) - sum(map(len, kept)))
        self.groups = [group for group in kept if group]

    def rest(self) -> list[int]:
        """The rows that are left, in their order."""
        return sorted(row for group in self.groups for row in group)

    def _count(self, reason: str, rows: int) -> None:
        if rows:
            self.left_out[reason] += rows

    def _say_shortage(self, wanted: int, taken: int) -> None:
        sizes = [len(members) for members in self.rows.members.values()]
        groups = "one group" if len(sizes) == 1 else f"{len(sizes):,} groups, the largest of {max(sizes):,}"
        why = f"its {len(self.data):,} rows are {groups} ({self.rows.rule})"
        if self.left_out[HELD_OUT_ELSEWHERE]:
            why += f", and {self.left_out[HELD_OUT_ELSEWHERE]:,} rows are {HELD_OUT_ELSEWHERE}"
        if not taken:
            raise UserError(
                f"{self.data.name}: none of {wanted:,} rows can be held out: {why}, and no two parts share a group; "
                "give the rows a column 'group' that says which belong together"
            )
        self.notes.append(f"{taken:,} of {wanted:,} rows could be held out: {why}")


def _order(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
