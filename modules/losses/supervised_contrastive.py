"""The supervised contrastive loss, for texts with a label.

Shapes: batch (rows of this process), candidates (texts compared with, over all processes), dim.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.distributed import Gather, own_places, processes_of
from modules.full_precision import in_full_precision
from modules.losses.cosines import cosines
from modules.losses.loss import Loss, register
from modules.losses.ranking import RANKING, ranking
from modules.losses.task_batch import TaskBatch


@register
class SupervisedContrastive(Loss):
    """Each text is to find the other texts of its label among all texts of the whole batch.

    Example:
        >>> texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1])
        >>> batch = TaskBatch("topics", LossConfig("supcon"), [], torch.tensor([[1, 2, 3]]), target=labels)
        >>> SupervisedContrastive(temperature=1.0).batch_loss([texts], batch, local)
        tensor(0.3133)
    """

    name = "supcon"
    rows = "labelled"
    metrics = RANKING

    def batch_loss(self, embeddings: list[Tensor], batch: TaskBatch, gather: Gather) -> Tensor:
        """Return the mean loss of the rows that share their label with another row."""
        assert batch.target is not None
        (texts,), labels = embeddings, gather(batch.target)
        own = own_places(batch.target, gather)
        losses = supervised_contrastive(texts, batch.target, gather(texts), labels, own, self.temperature)
        # How many rows have a positive differs between processes, so the mean is not taken in each of them.
        has_positive = (labels[:, None] == labels).sum(1) > 1
        return losses.sum() * processes_of(gather) / has_positive.sum().clamp(min=1)

    def row_loss(self, embeddings: list[Tensor], batch: TaskBatch, row: int) -> Tensor:
        """Return the loss of one text; 0 where no other row has its label."""
        assert batch.target is not None
        (texts,), labels = embeddings, batch.target
        own = torch.tensor([row], device=labels.device)
        return supervised_contrastive(texts[own], labels[own], texts, labels, own, self.temperature).sum()

    def observations(self, embeddings: list[Tensor], batch: TaskBatch) -> dict[str, tuple[Tensor, ...]]:
        """Return the ranks of the other texts of a label among the texts of other labels; see `ranking`."""
        assert batch.target is not None
        (texts,) = embeddings
        same = batch.target[:, None] == batch.target
        itself = torch.eye(len(batch), dtype=torch.bool, device=texts.device)
        return ranking(cosines(texts, texts), same & ~itself, ~same)


@in_full_precision
def supervised_contrastive(
    embeddings: Tensor, labels: Tensor, candidates: Tensor, candidate_labels: Tensor, own: Tensor, temperature: float
) -> Tensor:
    """Return the supervised contrastive loss, "out" form: Khosla et al. 2020 (arXiv 2004.11362), less its least value.

    Their equation 2 is a cross-entropy to the uniform distribution over a row's ``p`` positives, so it is never below
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
