"""From token embeddings to one embedding per text.

Shapes: batch, length (tokens, padding included), dim.
"""

import torch
from torch import Tensor

from modules.errors import UserError

POOLINGS = ("mean", "cls", "lasttoken")
"""The pooling modes, by their sentence-transformers names."""


def pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Pool the last hidden states; padding may stand on either side.

    Args:
        hidden: ``[batch, length, dim]``.
        attention_mask: ``[batch, length]``, 1 for a token, 0 for padding.
        pooling: one of `POOLINGS`.

    Returns:
        ``[batch, dim]``.

    Raises:
        UserError: the pooling is not one of `POOLINGS`.
    """
    if pooling == "mean":
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    if pooling not in POOLINGS:
        raise UserError(f"pooling '{pooling}' is unknown: use one of {', '.join(POOLINGS)}")
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    # The first (cls) or last token that is not padding, whichever side the tokenizer pads on.
    edge = positions.flip(0) if pooling == "cls" else positions + 1
    index = (attention_mask * edge).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), index]
