"""Rows to hold out: in which order a data set gives them, and what they forbid other data sets to train on."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from datamodules.groups import Groups, Rows
from datamodules.row_groups import RowGroups

ROWS_PER_GROUP = 2


def held_out_order(groups: Groups, rooms: Sequence[int]) -> Iterator[int]:
    """Yield rows in the order in which they are held out; a held-out part is the beginning of it.

    A group that has given a row can be in no other part, so its other rows are left out. At any point these are at
    most ``rooms[0]`` rows: each group gives `ROWS_PER_GROUP` rows, and before another begins that would leave out too
    many, the groups that have begun give one row more in turn. Groups that are too large for this are passed over.
    They come last, with the next larger room.

    Args:
        groups: rows of each group, in the order of the groups.
        rooms: how many rows may be left out, in increasing order; groups beyond the last room are never begun.
    """
    others = groups.sizes - 1
    for lower, room in pairwise([-1, *rooms]):
        fitting = np.flatnonzero((lower < others) & (others <= room))
        yield from _within((groups[group].tolist() for group in fitting.tolist()), room)


def _within(groups: Iterable[list[int]], room: int) -> Iterator[int]:
    begun: deque[deque[int]] = deque()
    left_out = 0
    for group in groups:
        while left_out + len(group) - 1 > room:
            yield _next_row(begun)
            left_out -= 1
        yield from group[:ROWS_PER_GROUP]
        if len(group) > ROWS_PER_GROUP:
            begun.append(deque(group[ROWS_PER_GROUP:]))
            left_out += len(group) - ROWS_PER_GROUP
    while begun:
        yield _next_row(begun)


def _next_row(begun: deque[deque[int]]) -> int:
    """A row of the group that has waited longest."""
    group = begun.popleft()
    row = group.popleft()
    if group:
        begun.append(group)
    return row


class HeldOut:
    """The texts by which held-out rows of all data sets are recognised in another data set.

    A row of another data set is an example of what is held out if it has the same anchor, or the same two texts in
    either order. If one of the two data sets is symmetric, one text that both have is enough. But a text of more than
    `row_groups.FREQUENT` rows of the other data set counts only where the two texts are the same: a single held-out
    row would take too many with it.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, list[tuple[str, NDArray[np.integer]]]] = {
            kind: [] for kind in ("pair", "anchor", "text", "symmetric")
        }

    def add(self, name: str, rows: RowGroups, held_out: Rows, begun: Rows) -> None:
        """Hold out rows of a data set.

        Args:
            name: of the data set.
            rows: all of its rows.
            held_out: which of them.
            begun: all rows of their groups. Those that are not held out are forbidden as they are, so that one file
                under two names has the same expert rows.
        """
        self._numbers["pair"].append((name, rows.pairs(begun)))
        self._numbers["anchor"].append((name, rows.columns[0][held_out]))
        for kind in ("text", "symmetric") if rows.symmetric else ("text",):
            self._numbers[kind] += [(name, column[held_out]) for column in rows.columns]

    def holds(self, name: str, rows: RowGroups) -> NDArray[np.bool_]:
        """Return for each row of a data set whether another one holds out an example that it is: ``[rows]``.

        Args:
            name: of the data set, whose own groups keep its parts apart.
            rows: of it.
        """
        found = np.isin(rows.pairs(), self._of_others("pair", name))
        kind = "text" if rows.symmetric else "symmetric"
        for one, column in [("anchor", rows.columns[0]), *((kind, column) for column in rows.columns)]:
            found |= np.isin(column, np.setdiff1d(self._of_others(one, name), rows.frequent))
        return found

    def _of_others(self, kind: str, name: str) -> NDArray[np.integer]:
        others = [numbers for owner, numbers in self._numbers[kind] if owner != name]
        return np.concatenate(others) if others else np.array([], np.int64)
