"""Embedding a batch of uneven texts without paying for its padding."""

from collections.abc import Callable

import torch
from torch import Tensor

from modules.encoding.features import Features

ROWS = 16
"""Texts that are padded together; fewer make the matrix products too small, more bring the padding back."""

LEAST_SAVED = 0.1
"""The share of a batch's tokens that parts have to save; less costs more in smaller matrix products."""


def embed_by_length(encoder: Callable[[Features], Tensor], features: Features) -> Tensor:
    """Embed a padded batch in parts of texts of about the same length, each padded to its own longest.

    A batch is as wide as its longest text: of sentences, about half of it is padding. On a CPU that is half of the
    time; an accelerator runs the batch as it is, because there a second launch costs more than the padding.

    Args:
        encoder: maps features to ``[batch, dim]``, each row by itself.
        features: of texts that are padded on the right.

    Returns:
        ``[batch, dim]``, in the order of the batch.
    """
    parts = parts_by_length(features)
    if len(parts) == 1:
        return encoder(features)
    embeddings = [encoder(part_of(features, rows, slice(length))) for rows, length in parts]
    return torch.cat(embeddings)[torch.cat([rows for rows, _ in parts]).argsort()]


def part_of(features: Features, rows: Tensor | slice, tokens: Tensor | slice) -> Features:
    """Return the given rows of a batch, with the given tokens of each."""
    # A tensor with one number per row, as the lengths of prompts, has no tokens to choose from.
    return {name: value[rows] if value.ndim == 1 else value[rows, tokens] for name, value in features.items()}


def parts_by_length(features: Features) -> list[tuple[Tensor, int]]:
    """Return the parts that a batch is embedded in: the rows of each and its length in tokens."""
    ids = features["input_ids"]
    whole = [(torch.arange(len(ids)), ids.shape[-1])]
    if ids.device.type != "cpu" or len(ids) <= ROWS:
        return whole
    lengths = features["attention_mask"].sum(1)
    parts = [(rows, int(lengths[rows[-1]])) for rows in lengths.argsort(stable=True).split(ROWS)]
    tokens = sum(len(rows) * length for rows, length in parts)
    return parts if tokens <= (1 - LEAST_SAVED) * ids.numel() else whole
