"""A trace of the losses on the probe-validation rows while a position is learned."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.csv_trace import CsvTrace


class ProbeTrace(Callback):
    """Keeps the loss of every data set on the probe-validation rows, at the start and at every validation of a fit.

    Losses are relative to the base's. They go

    - to the trainer's loggers: ``probe/<data set>/loss``;
    - at the end to ``probe_losses.csv``: ``step``, and a column per data set. A resumed run goes on with the rows of
      its checkpoint. ``fast_dev_run`` writes no file.

    Args:
        folder: of the CSV file.

    Example:
        >>> Trainer(callbacks=[ProbeTrace("run")]).fit(merge_module, datamodule=probe)
    """

    FILE = "probe_losses.csv"

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / self.FILE
        self._rows: list[dict[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the losses of the start, unless the run is resumed, which does not measure its start."""
        if pl_module.relative_losses:
            self._rows = []
            self._keep(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the losses of a validation."""
        if not trainer.sanity_checking:
            self._keep(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if self._rows and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trace = CsvTrace(self.path)
            trace.begin(list(self._rows[0]), step=0)  # the checkpoint has all rows: none of the file's are kept
            trace.add([list(row.values()) for row in self._rows])

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the rows of a checkpoint."""
        self._rows = state_dict["rows"]

    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses: dict[str, float] = pl_module.relative_losses  # type: ignore[assignment]
        self._rows = [*self._rows, {"step": trainer.global_step, **losses}]
        metrics = {f"probe/{name}/loss": loss for name, loss in losses.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
