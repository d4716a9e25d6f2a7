"""A progress bar that says which stage is training."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class StageProgressBar(TQDMProgressBar):
    """Lightning's bar, under the name of a stage, and as long as the steps that are left to do.

    Args:
        label: name of the stage.
    """

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    @property
    def total_train_batches(self) -> int | float:
        """Batches of this epoch, or fewer where ``max_steps`` comes first."""
        trainer = self.trainer
        if trainer.max_steps < 0:
            return super().total_train_batches
        left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        return min(super().total_train_batches, left + trainer.fit_loop.batch_idx + 1)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Without the logger's version, which is the stage's name again."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the stage's name on the bar."""
        super().on_train_epoch_start(trainer, pl_module)
        self.train_progress_bar.set_description(f"{self.label}, epoch {trainer.current_epoch}")
