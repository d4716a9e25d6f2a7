"""The batch of a training step: rows of one data set, tokenised, and the loss that they are trained with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from modules.encoding.features import Features

Kind = Literal["pairs", "graded", "labelled"]
"""Kind of rows: anchor, positive and hard negatives; sentence1, sentence2 and score; text and label."""

NO_TEXT = -1
"""Id of a cell without a text: a row that has fewer negatives than others. It is no candidate of any anchor."""


@dataclass  # not frozen: Lightning's `bf16-true` refuses frozen dataclasses in a batch
class LossConfig:
    """The loss that a data set is trained with.

    Args:
        name: one of `modules.losses`: ``infonce`` for pairs, ``cosent`` for graded pairs, ``supcon`` for labelled
            texts; ``auto`` takes the one that fits the columns of the data.
        temperature: divides the cosine similarities; small values look harder at close competitors.

    Example:
        >>> LossConfig("cosent", temperature=0.05)
        LossConfig(name='cosent', temperature=0.05)
    """

    name: str = "auto"
    temperature: float = 0.05


@dataclass
class TaskBatch:
    """A batch of rows of one data set.

    Args:
        task: name of the data set.
        loss: the loss of this data set, never ``auto``.
        features: one entry per text column: ``[anchor, positive, negative, ...]`` of pairs,
            ``[sentence1, sentence2]`` of graded pairs, ``[text]`` of labelled texts.
        text_ids: ``[columns, batch]`` int64, equal exactly where texts are equal; `NO_TEXT` where a row has no negative
            in this column: a loss leaves its embedding out.
        target: ``[batch]``: scores of graded pairs, float32; labels, int64; None for pairs.
        rows: where each row stands in its source, counted from 1, for messages; None: not known.

    Example:
        >>> texts = [["is it red", "a blue dog"], ["it is red", "the dog is blue"]]
        >>> features = [encoder.tokenize(column) for column in texts]
        >>> TaskBatch("qa", LossConfig("infonce"), features, text_ids=torch.tensor([[0, 1], [2, 3]]))
    """

    task: str
    loss: LossConfig
    features: list[Features]
    text_ids: Tensor
    target: Tensor | None = None
    rows: list[int] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.text_ids.shape[1]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TaskBatch:
        """Return the batch on another device; Lightning calls this."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            features=[{key: move(value) for key, value in column.items()} for column in self.features],
            text_ids=move(self.text_ids),
            target=None if self.target is None else move(self.target),
        )
