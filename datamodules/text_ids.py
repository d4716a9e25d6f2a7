"""Numbers that stand for texts, the same in every process: what is equal, without strings to compare."""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from datamodules.text_column import TextColumn
from modules.losses.task_batch import NO_TEXT

TextIds = NDArray[np.int64]
"""Numbers of texts; of a million different ones, two are equal with a probability of 3e-8."""


def text_id(text: str) -> int:
    """Return the number of a text: the eight bytes of its BLAKE2b digest as int64.

    The empty text, which a row has in place of a negative that it lacks, is `NO_TEXT`, which losses leave out.
    """
    if not text:
        return NO_TEXT
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def text_ids(texts: Iterable[str]) -> TextIds:
    """Return the number of each text: ``[texts]``."""
    return np.fromiter(map(text_id, texts), np.int64)


def column_ids(column: TextColumn, form: Callable[[str], str]) -> TextIds:
    """Return the number of each text of a column in some form, in which equal ones are the same: ``[rows]``."""
    return np.fromiter((text_id(form(text)) for text in column), np.int64, len(column))
