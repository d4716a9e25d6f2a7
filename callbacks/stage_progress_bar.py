"""A progress bar of one line that says which stage is training."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


class StageProgressBar(TQDMProgressBar):
    """Lightning's bar, under the name of a stage, and as long as the steps that are left to do.

    One bar at a time on standard error: validations within ``fit`` have none beside it, and it is wiped off when
    training ends. Where standard error is no terminal nothing is drawn.

    Args:
        label: name of the stage.

    Example:
        >>> trainer = Trainer(callbacks=[StageProgressBar("expert retrieval")])
    """

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    @property
    def is_enabled(self) -> bool:
        """True where bars are drawn."""
        return super().is_enabled and sys.stderr.isatty()

    @property
    def total_train_batches(self) -> int | float:
        """Batches of this epoch, or fewer where ``max_steps`` comes first."""
        trainer = self.trainer
        if trainer.max_steps < 0:
            return super().total_train_batches
        left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        return min(super().total_train_batches, left + trainer.fit_loop.batch_idx + 1)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics to show, without the logger's version, which is the stage's name again."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}

    @property
    def validation_description(self) -> str:
        """Name of the bar of a validation."""
        return f"{self.label}, validation"

    def init_train_tqdm(self) -> Tqdm:
        """Return the bar of a training."""
        return self._bar(self.label)

    def init_validation_tqdm(self) -> Tqdm:
        """Return the bar of a validation: none within ``fit``, where the bar of the training stays."""
        return Tqdm(disable=True) if self.trainer.state.fn == "fit" else self._bar(self.validation_description)

    def init_sanity_tqdm(self) -> Tqdm:
        """Return no bar: the few batches that are validated before training need none."""
        return Tqdm(disable=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the stage's name on the bar."""
        super().on_train_epoch_start(trainer, pl_module)
        self.train_progress_bar.set_description(f"{self.label}, epoch {trainer.current_epoch}")

    def _bar(self, label: str) -> Tqdm:
        return Tqdm(
            desc=label,
            disable=self.is_disabled,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )
