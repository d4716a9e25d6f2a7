"""What experts, joint models and positions share: an encoder, and validation data set by data set."""

from collections.abc import Sequence

import torch
from lightning import LightningModule
from torch import Tensor, nn

from modules.encoder import TextEncoder
from modules.errors import UserError
from modules.merged_encoder import MergedEncoder
from modules.metrics import TaskMetrics
from modules.task_batch import Features, TaskBatch
from modules.task_loss import TaskOutput, local, task_loss


class EmbeddingModule(LightningModule):
    """A LightningModule around an encoder.

    It trains with a data module whose ``task_losses`` maps the name of each data set to its loss, in the order of the
    validation loaders.

    Args:
        encoder: what is trained and validated.
    """

    def __init__(self, encoder: TextEncoder | MergedEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.task_metrics = nn.ModuleList()

    @property
    def task_losses(self) -> dict[str, str]:
        """Name of each data set to name of its loss, as the data module says."""
        losses: dict[str, str] | None = getattr(getattr(self.trainer, "datamodule", None), "task_losses", None)
        if losses is None:
            raise UserError(f"{type(self).__name__} needs a TaskDataModule or a ProbeDataModule as its datamodule")
        return losses

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> Features:
        """Tokenise as the encoder does; data modules call this."""
        return self.encoder.tokenize(texts, max_length)

    def on_validation_start(self) -> None:
        """Make one set of metrics a data set."""
        if not self.task_metrics:
            metrics = [TaskMetrics(loss) for loss in self.task_losses.values()]
            self.task_metrics = nn.ModuleList(metrics).to(self.device)

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to its data set's metrics; negatives are those of this process."""
        self._metrics_of(dataloader_idx).update(task_loss(self.encoder, batch, local), batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<data set>/<metric>``, and ``val/loss``, their mean loss."""
        losses = []
        for i, task in enumerate(self.task_losses):
            values = self._metrics_of(i).compute()
            self.log_dict({f"val/{task}/{name}": value for name, value in values.items()}, sync_dist=True)
            losses.append(values["loss"])
        self.log("val/loss", self.validation_objective(torch.stack(losses)), prog_bar=True, sync_dist=True)

    def validation_objective(self, losses: Tensor) -> Tensor:
        """What ``val/loss`` is, given the mean loss of each data set: their mean."""
        return losses.mean()

    def log_training(self, output: TaskOutput, batch: TaskBatch) -> None:
        """Log the loss of a training batch, over all data sets and for its own."""
        self.log("train/loss", output.loss, prog_bar=True, batch_size=len(batch))
        self.log(f"train/{batch.task}/loss", output.loss, batch_size=len(batch))

    def _metrics_of(self, index: int) -> TaskMetrics:
        metrics = self.task_metrics[index]
        assert isinstance(metrics, TaskMetrics)
        return metrics
