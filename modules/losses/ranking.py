"""Metrics of a loss that compares each row with candidates: where the first right candidate stands.

Shapes: batch (rows), candidates (texts compared with).
"""

import torch
from torch import Tensor
from torchmetrics import MeanMetric

RANKING = dict.fromkeys(("recall@1", "mrr", "positive_cosine", "negative_cosine"), MeanMetric)
"""Recall and mean reciprocal rank of the first right candidate, mean cosines of right and of wrong candidates."""


def ranking(similarity: Tensor, right: Tensor, wrong: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Return the values that a batch adds to the metrics of `RANKING`.

    A tie counts against the model: a model that maps all texts to one point has found nothing.

    Args:
        similarity: ``[batch, candidates]``.
        right: ``[batch, candidates]`` bool; a row without a right candidate has no rank, and is left out.
        wrong: ``[batch, candidates]`` bool; candidates that are neither right nor wrong do not count.

    Returns:
        Name of each of `RANKING` to the arguments of its ``update``.
    """
    kept = right.any(1)
    similarity, right, wrong = similarity[kept], right[kept], wrong[kept]
    best_right = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    rank = ((similarity >= best_right) & wrong).sum(1) + 1
    values = (rank == 1).float(), 1 / rank, similarity[right], similarity[wrong]
    return {name: (value,) for name, value in zip(RANKING, values, strict=True)}
