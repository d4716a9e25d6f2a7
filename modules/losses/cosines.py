"""Cosine similarities of embeddings, in float32 or better whatever the precision around them.

Shapes: batch (rows of this process), candidates (texts compared with, over all processes), dim.
"""

from torch import Tensor
from torch.nn import functional as F

from modules.full_precision import in_full_precision


@in_full_precision
def cosines(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the cosine of every row with every column.

    Args:
        rows: ``[batch, dim]``.
        columns: ``[candidates, dim]``.

    Returns:
        ``[batch, candidates]``.
    """
    return F.normalize(rows, dim=-1) @ F.normalize(columns, dim=-1).T


@in_full_precision
def paired_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of each row of one ``[batch, dim]`` with the same row of another: ``[batch]``."""
    return F.cosine_similarity(first, second)
