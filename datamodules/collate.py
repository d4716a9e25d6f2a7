"""From the places of rows to the tokenised batch that a training step receives."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.batching import Batch
from datamodules.task_data import TaskData
from datamodules.text_ids import TextIds, text_ids
from datamodules.token_cache import TaskTokens
from modules.encoding.features import Features
from modules.losses.task_batch import TaskBatch


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
        tokens: of each data set, or None where none are kept; `tokenize` makes those that are not there.
    """

    def __init__(
        self, tasks: Sequence[TaskData], tokenize: Tokenize, tokens: Sequence[TaskTokens | None] | None = None
    ) -> None:
        self.tasks, self.tokenize = tasks, tokenize
        self.tokens = tokens or [None] * len(tasks)

    def __call__(self, batch: Batch) -> TaskBatch:
        """Look up, or make, the tokens of the rows column by column."""
        number = batch[0][0]
        task, rows = self.tasks[number], np.array([row for _, row in batch])
        columns = [self._column(number, column, rows) for column in range(len(task.texts))]
        target = None
        if task.target is not None:
            dtype = torch.float32 if task.kind == "graded" else torch.int64
            target = torch.tensor(task.target[rows], dtype=dtype)
        return TaskBatch(
            task=task.name,
            loss=task.loss,
            features=[features for features, _ in columns],
            # Without prompts: an anchor and a positive of one text are equal whatever is written before them.
            text_ids=torch.from_numpy(np.stack([ids for _, ids in columns])),
            target=target,
            rows=None if task.places is None else task.places[rows].tolist(),
        )

    def _column(self, number: int, column: int, rows: NDArray[np.int64]) -> tuple[Features, TextIds]:
        task, tokens = self.tasks[number], self.tokens[number]
        found = None if tokens is None else tokens.column(column, rows)
        if found is not None:
            return found
        texts = [task.texts[column][row] for row in rows.tolist()]
        return self.tokenize(texts, prompts=task.row_prompts(column, rows.tolist())), text_ids(texts)
