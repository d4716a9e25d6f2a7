"""Tokenised texts, padded to a batch.

Shapes: batch, length (tokens).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TokenIds = npt.NDArray[np.integer]
"""The tokens of one text, special tokens included, without padding: ``[length]``."""

Features = dict[str, Tensor]
"""Tokenised texts: ``input_ids`` and ``attention_mask``, both ``[batch, length]``; where a model's pooling leaves
prompts out also ``prompt_lengths``, ``[batch]``: the number of prompt tokens of each text."""


def pad(ids: Sequence[TokenIds], pad_id: int) -> Features:
    """Pad token ids to the longest text of a batch.

    Padding is on the right, whatever the tokenizer says: there, neither absolute positions nor causal attention let it
    change an embedding, and pooling goes by the mask.

    Args:
        ids: of each text.
        pad_id: the padding token.

    Returns:
        ``input_ids`` and ``attention_mask``, ``[batch, length]`` int64.
    """
    length = max(map(len, ids))
    input_ids = np.full((len(ids), length), pad_id, dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
