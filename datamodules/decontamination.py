"""Contamination of evaluations: texts that are also training rows, and training rows left out because of them."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.task_data import TaskData
from datamodules.text_ids import TextIds, column_ids, text_id, text_ids
from modules.losses.task_batch import NO_TEXT

NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Overlap:
    """Counts of the texts that an evaluation shares with training rows.

    Args:
        texts: different texts of the evaluation.
        exact: those of them that are training texts, letter by letter.
        normalised: those that are training texts after `normalised`; the exact ones are among them.
    """

    texts: int
    exact: int
    normalised: int


class TrainingTexts:
    """Numbers of all training texts, as they are and after `normalised`.

    Args:
        texts: of every column, without prompts; an empty one stands for a negative that a row lacks.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        both = ((text_id(text), text_id(normalised(text))) for text in texts)
        ids = np.fromiter(both, np.dtype((np.int64, 2)))
        self._exact, self._normalised = (np.setdiff1d(column, [NO_TEXT]) for column in ids.T)

    def overlap(self, texts: Iterable[Collection[str]]) -> Overlap:
        """Return what an evaluation shares with these texts.

        Args:
            texts: the ways in which each text may be written: a document with and without its title, say.
        """
        # A row per way: the number of the text, and those of the way as it is and normalised.
        rows = (
            (number, text_id(way), text_id(normalised(way)))
            for ways in texts
            for number in [text_id("\0".join(ways))]
            for way in ways
        )
        numbers, ids, alike = np.fromiter(rows, np.dtype((np.int64, 3))).T
        exact = len(np.unique(numbers[np.isin(ids, self._exact)]))
        similar = len(np.unique(numbers[np.isin(alike, self._normalised)]))
        return Overlap(len(np.unique(numbers)), exact, max(exact, similar))


def evaluated_ids(texts: Iterable[Collection[str]]) -> TextIds:
    """Return the numbers of the texts of an evaluation that `rows_of_tasks` looks for, in increasing order.

    Args:
        texts: as for `TrainingTexts.overlap`.
    """
    ids = text_ids(normalised(way) for ways in texts for way in ways)
    return np.setdiff1d(ids, [NO_TEXT])


def rows_of_tasks(data: TaskData, tasks: Mapping[str, TextIds]) -> dict[str, NDArray[np.bool_]]:
    """Return for each task which rows have a text of it: ``[rows]``; one of several tasks counts for the first.

    Args:
        data: the rows.
        tasks: name to what `evaluated_ids` gives of its texts.
    """
    columns = [column_ids(column, normalised) for column in data.texts]
    seen = np.zeros(len(data), dtype=np.bool_)
    found = {}
    for name, ids in tasks.items():
        found[name] = np.any([np.isin(column, ids) for column in columns], axis=0) & ~seen
        seen |= found[name]
    return found


def normalised(text: str) -> str:
    """A text without case and punctuation: words, case-folded, with single spaces between them.

    Everything that is neither a letter nor a digit separates words. A text without any is empty, and equals none.
    """
    return NO_WORD.sub(" ", text).strip().casefold()
