"""The stage that takes losses and scores of a model on rows that nothing was learned or chosen on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from callbacks import BatchLosses
from lightning_app.stages.model import Model
from lightning_app.stages.probe_rows import ProbeRows
from lightning_app.stages.stage import ResultFolders, Stage
from lightning_app.stages.trainer_settings import TrainerSettings
from modules.distributed import is_main_process
from modules.embedding_module import EmbeddingModule
from modules.json_files import read_json, write_json

FILE = "held-out.json"


@dataclass(frozen=True)
class Measured:
    """A model on the held-out rows of one data set.

    Args:
        metrics: ``loss``, the mean over the rows, and the metrics of the loss.
        batch_losses: the loss of each batch.
    """

    metrics: Mapping[str, float]
    batch_losses: list[float]


@dataclass(frozen=True)
class HeldOut(Stage):
    """A model on held-out rows.

    Args:
        name: of the model.
        model: that is measured.
        rows: whose validation rows are those held out.
        trainer: takes the losses, in one process.
    """

    kind = "held_out"

    model: Model
    rows: ProbeRows
    trainer: TrainerSettings

    @property
    def title(self) -> str:
        """The stage as the screen calls it."""
        return f"held-out rows, {self.name}"

    @property
    def texts(self) -> int:
        """The number of texts that pass through the model."""
        return sum(len(task.validation) * len(task.validation.texts) for task in self.rows.tasks)

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Take the losses and the metrics."""
        kept = BatchLosses()
        trainer = self.trainer.make(self.name, [kept], logger=False, enable_progress_bar=False)
        module = EmbeddingModule(self.model.loading.load(self.model.folder(graph)))
        trainer.validate(module, datamodule=self.rows.data(), verbose=False)
        found = {key: float(value) for key, value in trainer.callback_metrics.items()}
        if is_main_process():
            write_json(
                folder / FILE, {name: _of(name, found, kept.losses[i]) for i, name in enumerate(self.rows.names)}
            )


def read_held_out(folder: Path) -> dict[str, Measured]:
    """Return data set to what a stage measured on it."""
    return {name: Measured(**measured) for name, measured in read_json(folder / FILE).items()}


def _of(name: str, found: Mapping[str, float], losses: list[float]) -> dict[str, object]:
    own = f"val/{name}/"
    metrics = {key.removeprefix(own): value for key, value in found.items() if key.startswith(own)}
    return {"metrics": metrics, "batch_losses": losses}
