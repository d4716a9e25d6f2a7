"""Rows to hold out: in which order a data set gives them, and what they forbid other data sets to train on."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

from datamodules.row_groups import RowGroups

ROWS_PER_GROUP = 2


def held_out_order(groups: Sequence[Sequence[int]], rooms: Sequence[int]) -> Iterator[int]:
    """Yield rows in the order in which they are held out; a held-out part is the beginning of it.

    A group that has given a row can be in no other part, so its other rows are left out. At any point these are at
    most ``rooms[0]`` rows: each group gives `ROWS_PER_GROUP` rows, and before another begins that would leave out too
    many, the groups that have begun give one row more in turn. Groups that are too large for this are passed over.
    They come last, with the next larger room.

    Args:
        groups: rows of each group, in the order of the groups.
        rooms: how many rows may be left out, in increasing order; groups beyond the last room are never begun.
    """
    for lower, room in pairwise([-1, *rooms]):
        yield from _within([group for group in groups if lower < len(group) - 1 <= room], room)


def _within(groups: Sequence[Sequence[int]], room: int) -> Iterator[int]:
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
    """What the held-out rows of all data sets are recognised by in another data set.

    A row of another data set is an example of what is held out if it has the same anchor, or the same two texts in
    either order. If one of the two data sets is symmetric, one text that both have is enough. But a text of more than
    `row_groups.FREQUENT` rows of the other data set counts only where the two texts are the same: a single held-out
    row would take too many with it.
    """

    def __init__(self) -> None:
        self._owners: dict[tuple[str, ...], set[str]] = defaultdict(set)

    def add(self, name: str, rows: RowGroups, held_out: Sequence[int], begun: Sequence[int]) -> None:
        """Hold out rows of a data set.

        Args:
            name: of the data set.
            rows: all of its rows.
            held_out: which of them.
            begun: all rows of their groups. Those that are not held out are forbidden as they are, so that one file
                under two names has the same expert rows.
        """
        for row in begun:
            self._owners["pair", *sorted(rows.texts(row))].add(name)
        for row in held_out:
            anchor, *_ = texts = rows.texts(row)
            kinds = ("text", "symmetric") if rows.symmetric else ("text",)
            for key in [("anchor", anchor), *((kind, text) for kind in kinds for text in texts)]:
                self._owners[key].add(name)

    def holds(self, name: str, rows: RowGroups, row: int) -> bool:
        """Return whether another data set holds out an example that a row is.

        Args:
            name: of the row's data set, whose own groups keep its parts apart.
            rows: all rows of that data set.
            row: which of them.
        """
        anchor, *_ = texts = rows.texts(row)
        kind = "text" if rows.symmetric else "symmetric"
        keys = [("anchor", anchor), *((kind, text) for text in texts)]
        keys = [key for key in keys if key[1] not in rows.frequent]
        found = (self._owners.get(key) for key in [("pair", *sorted(texts)), *keys])
        return any(owners and owners != {name} for owners in found)
