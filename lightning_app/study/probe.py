"""The loss of any model on the probe-validation rows, as a stage: what every choice of a study is made on."""

import json
from pathlib import Path

from lightning_app.model import Model
from lightning_app.recipe_data import RecipeData
from lightning_app.stages import Stage, StageGraph, is_main_process
from lightning_app.trainers import TrainerFactory
from modules import TextEncoder
from modules.embedding_module import EmbeddingModule

FILE = "probe.json"


class Prober:
    """Takes the loss of models on the probe-validation rows.

    Args:
        trainers: makes the Trainer of each stage.
        graph: runs the stages.
        data: has the rows.
    """

    def __init__(self, trainers: TrainerFactory, graph: StageGraph, data: RecipeData) -> None:
        self.trainers, self.graph, self.data = trainers, graph, data

    def stage(self, model: Model) -> Stage:
        """The stage that probes a model; its result is ``metric`` values by ``<data set>/<metric>``."""
        content = {
            **self.data.probe_content(),
            "given": model.identity(),
            "trainer": self.trainers.settings(lengths=False),
        }

        def run(folder: Path) -> None:
            trainer = self.trainers.make(model.name, [], logger=False, enable_progress_bar=False)
            module = EmbeddingModule(TextEncoder.load(model.folder(self.graph)))
            trainer.validate(module, datamodule=self.data.probe(), verbose=False)
            if is_main_process():
                found = {key.removeprefix("val/"): float(value) for key, value in trainer.callback_metrics.items()}
                (folder / FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

        texts = 2 * self.data.probe_arguments["validation_size"]
        return Stage("probe", model.name, content, run, model.inputs, texts)

    def losses(self, model: Model) -> dict[str, float]:
        """Data set to mean loss; runs the stage where it has not run."""
        found = json.loads((self.graph.run(self.stage(model)) / FILE).read_text(encoding="utf-8"))
        return {name: found[f"{name}/loss"] for name in self.data.probe_weights()}

    def objective(self, model: Model, base: Model) -> float:
        """The mean loss relative to the base's, weighted as a position's objective is, without its regulariser."""
        weights, at_base, losses = self.data.probe_weights(), self.losses(base), self.losses(model)
        return sum(w * losses[name] / at_base[name] for name, w in weights.items()) / sum(weights.values())
