"""The stage that takes the losses of any model on the probe-validation rows: what a study chooses by."""

from dataclasses import dataclass
from pathlib import Path

from lightning_app.stages.model import Model
from lightning_app.stages.probe_rows import ProbeRows
from lightning_app.stages.stage import ResultFolders, Stage
from lightning_app.stages.trainer_settings import TrainerSettings
from modules.distributed import is_main_process
from modules.embedding_module import EmbeddingModule
from modules.json_files import write_json

METRICS = "probe.json"
"""``<data set>/<metric>`` to its value."""


@dataclass(frozen=True)
class Probe(Stage):
    """The losses and metrics of a model on the probe-validation rows.

    Args:
        name: of the model.
        model: that is probed.
        probe: the rows.
        trainer: takes the losses.
    """

    kind = "probe"

    model: Model
    probe: ProbeRows
    trainer: TrainerSettings

    @property
    def texts(self) -> int:
        """About how many texts pass through the model."""
        return self.probe.validation_texts

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Take the losses."""
        trainer = self.trainer.make_silent(self.name)
        module = EmbeddingModule(self.model.loading.load(self.model.folder(graph)))
        trainer.validate(module, datamodule=self.probe.data(), verbose=False)
        if is_main_process():
            found = {key.removeprefix("val/"): float(value) for key, value in trainer.callback_metrics.items()}
            write_json(folder / METRICS, found)
