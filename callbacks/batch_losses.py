"""A callback that keeps the loss of every validation batch."""

from collections import defaultdict
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class BatchLosses(Callback):
    """Keeps the loss of every validation batch that this process has seen, so that intervals can be taken of the mean.

    Attributes:
        losses: place of a validation loader to the losses of its batches, in their order.

    Example:
        >>> kept = BatchLosses()
        >>> Trainer(callbacks=[kept]).validate(EmbeddingModule(encoder), datamodule=data)
        >>> kept.losses[0]
    """

    def __init__(self) -> None:
        self.losses: dict[int, list[float]] = defaultdict(list)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the loss that the module's validation step returned."""
        assert isinstance(outputs, Tensor)
        self.losses[dataloader_idx].append(float(outputs))
