"""Validation metrics of one data set, synchronised over processes by torchmetrics."""

from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from modules.losses.loss import LOSSES, make_loss
from modules.losses.task_batch import TaskBatch
from modules.losses.task_loss import TaskOutput


class TaskMetrics(nn.Module):
    """Mean loss of a data set, and the metrics of its loss.

    Args:
        loss: name of the data set's loss.

    Example:
        >>> metrics = TaskMetrics("infonce")
        >>> metrics.update(task_loss(encoder, batch, local), batch)
        >>> sorted(metrics.compute())
        ['loss', 'mrr', 'negative_cosine', 'positive_cosine', 'recall@1']
    """

    def __init__(self, loss: str) -> None:
        super().__init__()
        made = {name: make() for name, make in LOSSES[loss].metrics.items()}
        self.metrics = nn.ModuleDict({"loss": MeanMetric(), **made})

    def update(self, output: TaskOutput, batch: TaskBatch) -> None:
        """Add the loss of a batch, and its observations."""
        embeddings = [column.detach() for column in output.embeddings]
        added = make_loss(batch.loss).observations(embeddings, batch)
        for name, arguments in {"loss": (output.loss.detach(), len(batch)), **added}.items():
            self._metric(name).update(*arguments)

    def compute(self) -> dict[str, Tensor]:
        """Return the values over all processes, and start anew."""
        values = {name: self._metric(name).compute() for name in self.metrics}
        for name in self.metrics:
            self._metric(name).reset()
        return values

    def _metric(self, name: str) -> Metric:
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        return metric
