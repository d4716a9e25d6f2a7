"""The contrastive losses, as pure tensor maths.

Shapes: batch (rows of this process), candidates (texts compared with, over all processes), dim.
Embeddings need not be normalised: the similarity is always the cosine. Whatever the precision of the embeddings, and
under autocast too, losses are computed in float32 or better.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.full_precision import in_full_precision


@in_full_precision
def cosines(rows: Tensor, columns: Tensor) -> Tensor:
    """The cosine of every row with every column.

    Args:
        rows: ``[batch, dim]``.
        columns: ``[candidates, dim]``.

    Returns:
        ``[batch, candidates]``.
    """
    return F.normalize(rows, dim=-1) @ F.normalize(columns, dim=-1).T


@in_full_precision
def paired_cosines(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of each row of one ``[batch, dim]`` with that row of another: ``[batch]``."""
    return F.cosine_similarity(first, second)


@in_full_precision
def info_nce(anchors: Tensor, candidates: Tensor, own: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """InfoNCE: the cross-entropy of each anchor's own positive among all candidates.

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
    """Which candidates are false negatives, judged by equal texts.

    A candidate is no negative of an anchor when its text is that of the anchor's own positive, or of the anchor itself,
    or when it is the positive of another row with the same anchor (a query with several relevant documents).

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
    excluded[:, : len(all_anchor_ids)] |= all_anchor_ids == anchor_ids[:, None]
    excluded[torch.arange(len(own), device=own.device), own] = False
    return excluded


@in_full_precision
def cosent(similarities: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """CoSENT: every pair of rows whose scores differ should have similarities in the same order.

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


@in_full_precision
def supervised_contrastive(
    embeddings: Tensor, labels: Tensor, candidates: Tensor, candidate_labels: Tensor, own: Tensor, temperature: float
) -> Tensor:
    """Supervised contrastive loss, "out" form: Khosla et al. 2020 (arXiv 2004.11362), equation 2, less its least value.

    Equation 2 is a cross-entropy to the uniform distribution over a row's ``p`` positives, so it is never below
    ``log p``. Without that constant it is the Kullback-Leibler divergence: the same gradient, and 0 at best like the
    other losses, so that "half the loss of the base" means as much for labelled texts as for pairs.

    Args:
        embeddings: ``[batch, dim]``.
        labels: ``[batch]``.
        candidates: ``[candidates, dim]``, the batch over all processes.
        candidate_labels: ``[candidates]``.
        own: ``[batch]`` int64, the column of each row itself, which it is not compared with.
        temperature: divides the similarities.

    Returns:
        ``[batch]``: each row's loss, not negative; 0 where no other row has its label.
    """
    similarity = cosines(embeddings, candidates) / temperature
    itself = F.one_hot(own, len(candidates)).bool()
    log_probability = similarity.masked_fill(itself, -torch.inf).log_softmax(dim=1)
    positive = (labels[:, None] == candidate_labels) & ~itself
    positives = positive.sum(1, dtype=log_probability.dtype).clamp(min=1)
    return -log_probability.masked_fill(~positive, 0.0).sum(1) / positives - positives.log()
