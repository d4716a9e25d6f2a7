"""Groups of rows that belong together: no two parts of a split may have rows of one group."""

import hashlib
from itertools import islice

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datamodules.groups import Groups, Rows
from datamodules.task_data import TaskData
from datamodules.text_column import TextColumn
from datamodules.text_ids import TextIds, column_ids

SYMMETRIC_SHARE = 0.01
"""Columns are one kind of text where more than this part of the anchors occurs among the positives."""

FREQUENT = 50
"""A text of more rows than this (``yes``, a class, the one query of a data set) does not say which belong together."""

ODD = np.uint64(0x9E3779B97F4A7C15)
"""Multiplies the number of a text before that of another is added."""


class RowGroups:
    """The rows of a data set by group.

    Rows with a ``group`` column are grouped by it. Where the two columns are one kind of text (`symmetric`: captions,
    paraphrases, graded sentences), rows that share a text are in one group, and so are those that are linked by other
    rows; a text of more than `FREQUENT` rows links only those that have the same other text, too. All other rows are
    grouped by their anchor: many questions may have one answer. So are symmetric ones if most of them are linked, as
    queries and documents with graded relevance are. Texts are compared up to case and white space, by their numbers
    (`text_ids`).

    Args:
        data: the rows.

    Attributes:
        columns: numbers of the compared texts: anchor and positive, the two sentences, or the text of a label.
        symmetric: whether these columns are one kind of text.
        frequent: the compared texts of more than `FREQUENT` rows.
        members: the rows of each group, in their order.
        rule: what the rows of a group have in common, in words.
        notes: what is not as it might be expected, one line each.
    """

    def __init__(self, data: TaskData) -> None:
        self._data = data
        self.columns = [column_ids(column, comparable) for column in data.texts[:2]]
        self.symmetric = data.kind == "graded" or (len(self.columns) == 2 and _overlap(*self.columns) > SYMMETRIC_SHARE)
        texts, rows = np.unique(np.concatenate(self.columns), return_counts=True)
        self.frequent: TextIds = texts[rows > FREQUENT]
        self.notes: list[str] = []
        labels, self.rule, self._named_by = self._grouped()
        self.members = Groups.of_labels(labels)

    def in_order(self, seed: int) -> Groups:
        """Return the groups in the order of ``sha256(seed, group)``.

        The name of a group is its text in the column ``group``, its anchor, or the smallest of its linked rows, written
        out.
        """
        columns = [column.take(self.members.rows) for column in self._named_by]
        written = str if self._data.groups is not None else comparable
        rows = ("\0".join(sorted(map(written, texts))) for texts in zip(*columns, strict=True))
        names = (min(islice(rows, size)) for size in self.members.sizes.tolist())
        hashes = (hashlib.sha256(f"{seed}\0{name}".encode()).digest() for name in names)
        words = np.fromiter(hashes, "S32", len(self.members)).view(">u8").reshape(-1, 4)
        return self.members.take(np.lexsort(words.T[::-1]))

    def pairs(self, rows: Rows | slice = slice(None)) -> TextIds:
        """Return a number of the compared texts of each row: equal for the same two, whichever is first."""
        number = np.uint64(0)
        for texts in np.sort([column[rows].view(np.uint64) for column in self.columns], axis=0):
            number = number * ODD + texts
        return np.asarray(number).view(np.int64)  # as all numbers of texts: NumPy 2.0 cannot look for unsigned ones

    def _grouped(self) -> tuple[Rows, str, list[TextColumn]]:
        """The group of each row, a number from 0 on; the rule; and the columns that name a group."""
        data = self._data
        if data.groups is not None:
            return _labels(column_ids(data.groups, str)), "rows of one 'group'", [data.groups]
        if self.symmetric:
            labels = self._linked()
            largest = np.bincount(labels).max()
            if largest == 1 or 2 * largest <= len(data):
                return labels, "rows that share a text, or are linked by rows that do", data.texts[:2]
            self.symmetric = False
            self.notes.append(
                f"grouped by anchor, so that other texts may be in two parts: shared texts link {largest:,} of its "
                f"{len(data):,} rows"
            )
        rule = "rows of one text" if data.kind == "labelled" else "rows of one anchor"
        return _labels(self.columns[0]), rule, data.texts[:1]

    def _linked(self) -> Rows:
        """The connected component of each row."""
        rows = len(self._data)
        # Rows of the same two texts are linked, too, even if both are frequent.
        shared = [*self.columns, self.pairs()]
        texts, places = np.concatenate(shared), np.tile(np.arange(rows), len(shared))
        by_text = np.argsort(texts, kind="stable")
        by_text = by_text[~np.isin(texts[by_text], self.frequent)]
        # The rows of a text are linked each to the next.
        one, other = by_text[:-1], by_text[1:]
        same = texts[one] == texts[other]
        one, other = places[one[same]], places[other[same]]
        links = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(rows, rows))
        return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def comparable(text: str) -> str:
    """A text as it is compared with others: without case, and with single spaces."""
    return " ".join(text.split()).casefold()


def _labels(ids: TextIds) -> Rows:
    return np.unique(ids, return_inverse=True)[1]


def _overlap(anchors: TextIds, positives: TextIds) -> float:
    """The part of the different anchors that are positives as well."""
    distinct = np.unique(anchors)
    return float(np.isin(distinct, positives).mean())
