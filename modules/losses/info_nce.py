"""InfoNCE, for pairs of an anchor and its positive, with or without hard negatives.

Shapes: batch (rows of this process), candidates (texts compared with, over all processes), dim.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.distributed import Gather, own_places
from modules.full_precision import in_full_precision
from modules.losses.cosines import cosines
from modules.losses.loss import Loss, register
from modules.losses.ranking import RANKING, ranking
from modules.losses.task_batch import NO_TEXT, TaskBatch


@register
class InfoNce(Loss):
    """Each anchor is to find its own positive among the positives and hard negatives of the whole batch.

    Example:
        >>> anchors, positives = torch.eye(2), torch.eye(2)
        >>> batch = TaskBatch("qa", LossConfig("infonce"), [], text_ids=torch.tensor([[1, 2], [3, 4]]))
        >>> InfoNce(temperature=1.0).batch_loss([anchors, positives], batch, local)
        tensor(0.3133)
    """

    name = "infonce"
    rows = "pairs"
    metrics = RANKING

    def batch_loss(self, embeddings: list[Tensor], batch: TaskBatch, gather: Gather) -> Tensor:
        """Return the mean loss of the anchors of this process."""
        anchors, *others = embeddings
        candidates = torch.cat([gather(column) for column in others])
        anchor_ids, *other_ids = batch.text_ids
        candidate_ids = torch.cat([gather(ids) for ids in other_ids])
        own = own_places(anchor_ids, gather)
        excluded = same_text_mask(anchor_ids, gather(anchor_ids), candidate_ids, own)
        return info_nce(anchors, candidates, own, excluded, self.temperature)

    def row_loss(self, embeddings: list[Tensor], batch: TaskBatch, row: int) -> Tensor:
        """Return the cross-entropy of one anchor."""
        own = torch.tensor([row], device=batch.text_ids.device)
        anchor_ids, *other_ids = batch.text_ids
        excluded = same_text_mask(anchor_ids[own], anchor_ids, torch.cat(other_ids), own)
        return info_nce(embeddings[0][own], torch.cat(embeddings[1:]), own, excluded, self.temperature)

    def observations(self, embeddings: list[Tensor], batch: TaskBatch) -> dict[str, tuple[Tensor, ...]]:
        """Return how the positives rank among the candidates that are no false negatives."""
        anchors, candidates = embeddings[0], torch.cat(embeddings[1:])
        own = torch.arange(len(batch), device=anchors.device)
        right = F.one_hot(own, len(candidates)).bool()
        excluded = same_text_mask(batch.text_ids[0], batch.text_ids[0], batch.text_ids[1:].flatten(), own)
        return ranking(cosines(anchors, candidates), right, ~right & ~excluded)


@in_full_precision
def info_nce(anchors: Tensor, candidates: Tensor, own: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE: the cross-entropy of each anchor's own positive among all candidates.

    van den Oord et al. 2018 (arXiv 1807.03748), with cosine similarities as in the paper we follow (arXiv 2410.15035).

    Args:
        anchors: ``[batch, dim]``.
        candidates: ``[candidates, dim]``: all positives, then all given hard negatives.
        own: ``[batch]`` int64, the column of each anchor's own positive.
        excluded: ``[batch, candidates]`` bool, candidates that are no negatives of this anchor (`same_text_mask`).
        temperature: divides the similarities.

    Returns:
        The mean over the anchors, a scalar.
    """
    similarity = cosines(anchors, candidates) / temperature
    return F.cross_entropy(similarity.masked_fill(excluded, -torch.inf), own)


def same_text_mask(anchor_ids: Tensor, all_anchor_ids: Tensor, candidate_ids: Tensor, own: Tensor) -> Tensor:
    """Return which candidates are no negatives of which anchors, judged by equal texts.

    A candidate is no negative of an anchor when its text is that of the anchor's own positive, or of the anchor itself,
    or when it is the positive of another row with the same anchor (a query with several relevant documents). A cell
    without a text (`NO_TEXT`), in rows that have fewer negatives than others, is a negative of none.

    Args:
        anchor_ids: ``[batch]`` text ids of this process's anchors.
        all_anchor_ids: ``[positives]`` text ids of the anchors over all processes, in the order of the positives.
        candidate_ids: ``[candidates]`` text ids: all positives, then all hard negatives.
        own: ``[batch]``, the column of each anchor's own positive.

    Returns:
        ``[batch, candidates]`` bool, never true at the own positive.
    """
    own_ids = candidate_ids[own]
    excluded = (candidate_ids == own_ids[:, None]) | (candidate_ids == anchor_ids[:, None])
    excluded |= candidate_ids == NO_TEXT
    excluded[:, : len(all_anchor_ids)] |= all_anchor_ids == anchor_ids[:, None]
    excluded[torch.arange(len(own), device=own.device), own] = False
    return excluded
