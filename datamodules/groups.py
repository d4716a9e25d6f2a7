"""Rows by group, in two arrays however many groups there are."""

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Groups(Sequence[Rows]):
    """The rows of each group, in the order of the groups.

    Args:
        rows: of the first group, then of the second, and so on.
        sizes: rows of each group, at least one.

    Example:
        >>> list(Groups.of([[3, 4], [0]]))
        [array([3, 4]), array([0])]
    """

    def __init__(self, rows: Rows, sizes: Rows) -> None:
        self.rows, self.sizes = rows, sizes
        self._ends = np.cumsum(sizes)

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]]) -> "Groups":
        """Return these groups."""
        rows = [row for group in groups for row in group]
        return cls(np.array(rows, np.int64), np.array([len(group) for group in groups], np.int64))

    @classmethod
    def of_labels(cls, labels: Rows) -> "Groups":
        """Return the groups of a label per row, numbers from 0 on, each with its rows in their order."""
        return cls(np.argsort(labels, kind="stable"), np.bincount(labels))

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Rows: ...

    @overload
    def __getitem__(self, index: slice) -> "Groups": ...

    def __getitem__(self, index: int | slice) -> "Rows | Groups":
        """Return the rows of a group, or some of the groups."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        end = self._ends[index]
        return self.rows[end - self.sizes[index] : end]

    def take(self, groups: Rows) -> "Groups":
        """Return some of the groups, in this order."""
        sizes = self.sizes[groups]
        before = np.cumsum(sizes) - sizes
        # The place of each row: where its group begins, and how many of the group come before it.
        places = np.repeat((self._ends - self.sizes)[groups] - before, sizes) + np.arange(sizes.sum())
        return Groups(self.rows[places], sizes)

    def with_any(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which groups have at least one of some rows.

        Args:
            chosen: ``[all rows]``, whether each is one of them.
        """
        found = np.zeros(len(self), dtype=np.bool_)
        found[self._of_each_row()[chosen[self.rows]]] = True
        return found

    def without(self, left_out: NDArray[np.bool_]) -> "Groups":
        """Return the groups without some rows, and without the groups that have no other.

        Args:
            left_out: ``[all rows]``, whether each is one of them.
        """
        kept = ~left_out[self.rows]
        sizes = np.bincount(self._of_each_row()[kept], minlength=len(self))
        return Groups(self.rows[kept], sizes[sizes > 0])

    def _of_each_row(self) -> Rows:
        return np.repeat(np.arange(len(self)), self.sizes)
