"""From the places of rows to the tokenised batch that a training step receives."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch

from datamodules.batching import Batch
from datamodules.task_data import TaskData
from modules.encoding.features import Features
from modules.losses.task_batch import NO_TEXT, TaskBatch


class Tokenize(Protocol):
    """Makes padded token ids of texts."""

    def __call__(self, texts: Sequence[str], *, prompts: Sequence[str]) -> Features:
        """Tokenise texts, each behind its prompt."""
        ...


class Collator:
    """Makes a ``TaskBatch`` of rows of one data set.

    Args:
        tasks: the data sets that the first number of a row's place counts, with the prompts of the model.
        tokenize: texts and their prompts -> padded token ids. It is pickled with the collator where workers are not
            forked.
    """

    def __init__(self, tasks: Sequence[TaskData], tokenize: Tokenize) -> None:
        self.tasks = tasks
        self.tokenize = tokenize

    def __call__(self, batch: Batch) -> TaskBatch:
        """Tokenise the rows column by column."""
        task = self.tasks[batch[0][0]]
        rows = [row for _, row in batch]
        places = None if task.places is None else task.places[rows].tolist()
        target = None
        if task.target is not None:
            dtype = torch.float32 if task.kind == "graded" else torch.int64
            target = torch.tensor(task.target[rows], dtype=dtype)
        return TaskBatch(
            task=task.name,
            loss=task.loss,
            features=[
                self.tokenize([texts[row] for row in rows], prompts=task.row_prompts(column, rows))
                for column, texts in enumerate(task.texts)
            ],
            # Without prompts: an anchor and a positive of one text are equal whatever is written before them.
            text_ids=torch.tensor([[text_id(texts[row]) for row in rows] for texts in task.texts], dtype=torch.int64),
            target=target,
            rows=places,
        )


def text_id(text: str) -> int:
    """Return the number of a text, the same in every process: the first eight bytes of its BLAKE2b digest as int64.

    The empty text, which a row has in place of a negative that it lacks, is `NO_TEXT`, which losses leave out.
    """
    if not text:
        return NO_TEXT
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
