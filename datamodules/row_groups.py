"""Which rows of a data set belong together: no two parts of a split may have rows of one group."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from datamodules.task_data import TaskData

SYMMETRIC_SHARE = 0.01
"""Columns are one kind of text where more than this part of the anchors occurs among the positives."""

FREQUENT = 50
"""A text of more rows than this (``yes``, a class, the one query of a data set) does not say which belong together."""


class RowGroups:
    """The rows of a data set by group.

    Rows with a ``group`` column are grouped by it. Where the two columns are one kind of text (`symmetric`: captions,
    paraphrases, graded sentences), rows that share a text are in one group, and so are those that are linked by other
    rows; a text of more than `FREQUENT` rows links none. All other rows are grouped by their anchor: many questions may
    have one answer. So are symmetric ones if most of them are linked, as queries and documents with graded relevance
    are. Texts are compared up to case and white space.

    Args:
        data: the rows.

    Attributes:
        columns: the compared texts: anchor and positive, the two sentences, or the text of a label.
        symmetric: whether these columns are one kind of text.
        frequent: the compared texts of more than `FREQUENT` rows.
        members: name of each group to its rows, in their order.
        rule: what the rows of a group have in common, in words.
        notes: what is not as it might be expected, one line each.
    """

    def __init__(self, data: TaskData) -> None:
        self.columns = [[comparable(text) for text in column] for column in data.texts[:2]]
        self.symmetric = data.kind == "graded" or (len(self.columns) == 2 and _overlap(*self.columns) > SYMMETRIC_SHARE)
        frequency = Counter(text for column in self.columns for text in column)
        self.frequent = {text for text, rows in frequency.items() if rows > FREQUENT}
        self.notes: list[str] = []
        groups, self.rule = self._grouped(data)
        self.members: dict[str, list[int]] = defaultdict(list)
        for row, group in enumerate(groups):
            self.members[group].append(row)

    def texts(self, row: int) -> list[str]:
        """The compared texts of a row."""
        return [column[row] for column in self.columns]

    def _grouped(self, data: TaskData) -> tuple[Sequence[str], str]:
        """The group of each row, and the rule."""
        if data.groups is not None:
            return data.groups, "rows of one 'group'"
        if self.symmetric:
            groups = self._linked()
            ((_, largest),) = Counter(groups).most_common(1)
            if largest == 1 or 2 * largest <= len(data):
                return groups, "rows that share a text, or are linked by rows that do"
            self.symmetric = False
            self.notes.append(
                f"grouped by anchor, so that other texts may be in two parts: shared texts link {largest:,} of its "
                f"{len(data):,} rows"
            )
        return self.columns[0], "rows of one text" if data.kind == "labelled" else "rows of one anchor"

    def _linked(self) -> list[str]:
        """The group of each row: the smallest of its connected rows, written out."""
        rows = list(zip(*self.columns, strict=True))
        linked = _Components(len(rows))
        first: dict[str, int] = {}
        for row, texts in enumerate(rows):
            for text in texts:
                if text not in self.frequent:
                    linked.join(first.setdefault(text, row), row)
        names: dict[int, str] = {}
        for row, texts in enumerate(rows):
            root, name = linked.root(row), "\0".join(sorted(texts))
            names[root] = min(names.get(root, name), name)
        return [names[linked.root(row)] for row in range(len(rows))]


class _Components:
    """Connected components, by union-find with path halving.

    Args:
        size: number of items, each a component at first.
    """

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def root(self, item: int) -> int:
        """The item that stands for the component of an item."""
        parents = self._parents
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    def join(self, first: int, second: int) -> None:
        """Make one component of those of two items."""
        self._parents[self.root(second)] = self.root(first)


def comparable(text: str) -> str:
    """A text as it is compared with others: without case, and with single spaces."""
    return " ".join(text.split()).casefold()


def _overlap(anchors: Sequence[str], positives: Sequence[str]) -> float:
    """The part of the different anchors that are positives as well."""
    distinct = set(anchors)
    return len(distinct.intersection(positives)) / len(distinct)
