"""A trace of the position of a learned merge, one row per optimiser step."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.csv_trace import CsvTrace


class CoefficientTrace(Callback):
    """Writes the position of a ``MergeModule`` at the start and after every optimiser step.

    - to the trainer's loggers, whatever ``log_every_n_steps`` says: ``coefficient/<expert>``, the factor of the
      expert's task vector, and ``scale`` (of several groups, of each);
    - to ``coefficients.csv``: ``step`` and every entry of ``pl_module.describe_position()``. A resumed run goes on
      where its checkpoint was written. ``fast_dev_run`` writes no file.

    Args:
        folder: of the CSV file; None: the trainer's ``default_root_dir``.

    Example:
        >>> Trainer(callbacks=[CoefficientTrace("run")]).fit(merge_module, datamodule=probe)
    """

    FILE = "coefficients.csv"

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = folder
        self._step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write where training starts, after the rows of earlier steps if the run is resumed."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            columns = ["step", *pl_module.describe_position()]  # type: ignore[operator]
            self._trace(trainer).begin(columns, trainer.global_step)
        self._step = -1
        self._write(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the new position, unless gradients are still being accumulated."""
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        position: dict[str, float] = pl_module.describe_position()  # type: ignore[operator]
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._trace(trainer).add([[self._step, *position.values()]])
        metrics = {
            key.replace("c/", "coefficient/", 1): value for key, value in position.items() if not key.startswith("a/")
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self._step)

    def _trace(self, trainer: Trainer) -> CsvTrace:
        return CsvTrace(Path(self.folder or trainer.default_root_dir) / self.FILE)
