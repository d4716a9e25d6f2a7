"""Embedding a batch of uneven texts without paying for its padding."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.encoding.features import Features

ROWS = 16
"""Texts that are padded together; fewer make the matrix products too small, more bring the padding back."""


def embed_columns(encoder: Callable[[Features], Tensor], columns: Sequence[Features]) -> list[Tensor]:
    """Embed the text columns of a batch.

    On a CPU all of them go through the encoder together, in parts of about the same length: an accelerator runs each
    column as it is, because there a second launch costs more than the padding.

    Args:
        encoder: maps features to ``[batch, dim]``, each row by itself.
        columns: ``input_ids`` and ``attention_mask``, ``[batch, length]``, padded on the right, and what has one number
            per row.

    Returns:
        ``[batch, dim]`` of each column, in the order of the batch.
    """
    if columns[0]["input_ids"].device.type != "cpu":
        return [encoder(column) for column in columns]
    features = stacked(columns)
    parts = _parts_by_length(features)
    embeddings = [encoder(part_of(features, rows, slice(length))) for rows, length in parts]
    in_order = torch.cat(embeddings)[torch.cat([rows for rows, _ in parts]).argsort()]
    return list(in_order.split([len(column["input_ids"]) for column in columns]))


def stacked(columns: Sequence[Features]) -> Features:
    """Return the rows of all columns as one batch, padded to the longest."""
    longest = max(column["input_ids"].shape[-1] for column in columns)

    def padded(value: Tensor) -> Tensor:
        return F.pad(value, (0, longest - value.shape[-1])) if value.ndim > 1 else value

    return {name: torch.cat([padded(column[name]) for column in columns]) for name in columns[0]}


def part_of(features: Features, rows: Tensor | slice, tokens: Tensor | slice) -> Features:
    """Return some rows of a batch, with some of their tokens."""
    # What has one number per row, as the lengths of prompts, has no tokens to choose from.
    return {name: value[rows] if value.ndim == 1 else value[rows, tokens] for name, value in features.items()}


def sizes_of_parts(columns: Sequence[Features]) -> list[tuple[int, int]]:
    """Return rows and length in tokens of each part that `embed_columns` embeds the columns in."""
    if columns[0]["input_ids"].device.type != "cpu":
        return [(len(ids), ids.shape[-1]) for ids in (column["input_ids"] for column in columns)]
    return [(len(rows), length) for rows, length in _parts_by_length(stacked(columns))]


def _parts_by_length(features: Features) -> list[tuple[Tensor, int]]:
    """The rows of each part, and its length in tokens."""
    lengths = features["attention_mask"].sum(1)
    return [(rows, int(lengths[rows[-1]])) for rows in lengths.argsort(stable=True).split(ROWS)]
