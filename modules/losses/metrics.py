"""Validation metrics of one data set, synchronised over processes by torchmetrics."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.regression import SpearmanCorrCoef

from modules.losses.functional import cosines, paired_cosines, same_text_mask
from modules.losses.task_batch import TaskBatch
from modules.losses.task_loss import TaskOutput


class TaskMetrics(nn.Module):
    """Mean loss, and what the kind of data allows.

    Graded pairs: ``spearman`` of cosine and score. Pairs and labelled texts: ``recall@1`` and ``mrr`` of the first
    right text among those of the batch, mean cosine of right (``positive_cosine``) and wrong texts
    (``negative_cosine``).

    Args:
        loss: name of the data set's loss.
    """

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.spearman = SpearmanCorrCoef() if loss == "cosent" else None
        ranking = () if loss == "cosent" else ("recall@1", "mrr", "positive_cosine", "negative_cosine")
        self.ranking = nn.ModuleDict({name: MeanMetric() for name in ranking})

    def update(self, output: TaskOutput, batch: TaskBatch) -> None:
        """Add a batch."""
        self.loss.update(output.loss.detach(), len(batch))
        embeddings = [column.detach() for column in output.embeddings]
        if self.spearman is not None:
            assert batch.target is not None
            self.spearman.update(paired_cosines(embeddings[0], embeddings[1]), batch.target)
        else:
            self._update_ranking(*_compare(embeddings, batch))

    def compute(self) -> dict[str, Tensor]:
        """The values over all processes; afterwards the metrics start anew."""
        metrics: dict[str, Metric] = {"loss": self.loss, **self.ranking}  # type: ignore[dict-item]
        if self.spearman is not None:
            metrics["spearman"] = self.spearman
        values = {name: metric.compute() for name, metric in metrics.items()}
        for metric in metrics.values():
            metric.reset()
        return values

    def _update_ranking(self, similarity: Tensor, right: Tensor, wrong: Tensor) -> None:
        kept = right.any(1)  # a row without a right text (a label seen once in the batch) has no rank
        similarity, right, wrong = similarity[kept], right[kept], wrong[kept]
        best_right = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        # A tie counts against the model: one that maps all texts to one point has found nothing.
        rank = ((similarity >= best_right) & wrong).sum(1) + 1
        values = (rank == 1).float(), 1 / rank, similarity[right], similarity[wrong]
        for metric, value in zip(self.ranking.values(), values, strict=True):
            assert isinstance(metric, Metric)
            metric.update(value)


def _compare(embeddings: list[Tensor], batch: TaskBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity of rows and candidates of the batch, and which are right and wrong: three ``[batch, candidates]``."""
    own = torch.arange(len(batch), device=embeddings[0].device)
    if batch.loss.name == "supcon":
        assert batch.target is not None
        same = batch.target[:, None] == batch.target
        itself = F.one_hot(own, len(batch)).bool()
        return cosines(embeddings[0], embeddings[0]), same & ~itself, ~same
    candidates = torch.cat(embeddings[1:])
    right = F.one_hot(own, len(candidates)).bool()
    excluded = same_text_mask(batch.text_ids[0], batch.text_ids[0], batch.text_ids[1:].flatten(), own)
    return cosines(embeddings[0], candidates), right, ~right & ~excluded
