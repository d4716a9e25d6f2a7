"""What a training step receives: one batch of one data set, tokenised."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Features = dict[str, Tensor]
"""Tokenised texts: ``input_ids`` and ``attention_mask``, both ``[batch, length]``; where a model's pooling leaves out
prompts, also ``prompt_lengths`` ``[batch]``, the tokens of each row's prompt."""


@dataclass  # not frozen: Lightning's `bf16-true` refuses frozen dataclasses in a batch
class LossConfig:
    """Which contrastive loss a data set is trained with.

    Args:
        name: ``infonce`` for pairs, ``cosent`` for graded pairs, ``supcon`` for labelled texts; ``auto`` takes the
            one that fits the columns of the data.
        temperature: divides the cosine similarities; small values look harder at close competitors.
    """

    name: str = "auto"
    temperature: float = 0.05


@dataclass
class TaskBatch:
    """One batch of rows of one data set.

    Args:
        task: name of the data set.
        loss: the loss of this data set, never ``auto``.
        features: one entry per text column: ``[anchor, positive, negative, ...]`` for ``infonce``,
            ``[sentence1, sentence2]`` for ``cosent``, ``[text]`` for ``supcon``.
        text_ids: ``[columns, batch]`` int64, equal exactly where texts are equal.
        target: ``[batch]``: the score (``cosent``, float32), the label (``supcon``, int64), or None (``infonce``).
        rows: where each row stands in its source, counted from 1, for messages; None: not known.
    """

    task: str
    loss: LossConfig
    features: list[Features]
    text_ids: Tensor
    target: Tensor | None = None
    rows: list[int] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return self.text_ids.shape[1]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TaskBatch:
        """The batch on another device; Lightning calls this."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            features=[{key: move(value) for key, value in column.items()} for column in self.features],
            text_ids=move(self.text_ids),
            target=None if self.target is None else move(self.target),
        )
