"""CoSENT, for pairs of sentences with a graded score.

Shapes: batch (rows of this process), dim.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics.regression import SpearmanCorrCoef

from modules.distributed import Gather
from modules.full_precision import in_full_precision
from modules.losses.cosines import paired_cosines
from modules.losses.loss import Loss, Metrics, register
from modules.losses.task_batch import TaskBatch


@register
class CoSent(Loss):
    """Two pairs of sentences whose scores differ should have cosines in the same order.

    The metric ``spearman`` is the rank correlation of cosine and score.

    Example:
        >>> first, second = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # cosines 1 and 0
        >>> batch = TaskBatch("sts", LossConfig("cosent"), [], torch.zeros(2, 2), target=torch.tensor([0.9, 0.1]))
        >>> CoSent(temperature=1.0).batch_loss([first, second], batch, local)
        tensor(0.3133)
    """

    name = "cosent"
    rows = "graded"
    metrics: ClassVar[Metrics] = {"spearman": SpearmanCorrCoef}

    def batch_loss(self, embeddings: list[Tensor], batch: TaskBatch, gather: Gather) -> Tensor:
        """Return the loss of all pairs of rows."""
        assert batch.target is not None
        return cosent(gather(paired_cosines(*embeddings)), gather(batch.target), self.temperature)

    def row_loss(self, embeddings: list[Tensor], batch: TaskBatch, row: int) -> Tensor:
        """Return the loss of the batch times its number of rows: no part of it belongs to one row alone."""
        assert batch.target is not None
        return len(batch) * cosent(paired_cosines(*embeddings), batch.target, self.temperature)

    def observations(self, embeddings: list[Tensor], batch: TaskBatch) -> dict[str, tuple[Tensor, ...]]:
        """Return the cosines and the scores of the pairs."""
        assert batch.target is not None
        return {"spearman": (paired_cosines(*embeddings), batch.target)}


@in_full_precision
def cosent(similarities: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return CoSENT: every pair of rows whose scores differ should have similarities in the same order.

    ``log(1 + sum over score_i > score_j of exp((similarity_j - similarity_i) / temperature))``; Su 2022.

    Args:
        similarities: ``[batch]`` cosine similarity of each pair of sentences.
        scores: ``[batch]`` graded labels.
        temperature: divides the differences.

    Returns:
        A scalar; 0 if all scores are equal.
    """
    scaled = similarities / temperature
    differences = scaled[None, :] - scaled[:, None]  # [i, j]: how far j is above i
    differences = differences.masked_fill(scores[:, None] <= scores[None, :], -torch.inf)
    return torch.logsumexp(torch.cat([scaled.new_zeros(1), differences.flatten()]), dim=0)
