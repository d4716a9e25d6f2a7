"""The loss of any model on the probe-validation rows, as a stage: what every choice of a study is made on."""

from functools import cached_property
from pathlib import Path

from lightning_app.recipe.recipe_data import RecipeData
from lightning_app.stages.loading import Loading
from lightning_app.stages.model import Model
from lightning_app.stages.stage_graph import Stage, StageGraph, is_main_process
from lightning_app.stages.trainers import TrainerFactory
from modules.embedding_module import EmbeddingModule
from modules.json_files import read_json, write_json
from modules.positioning.relative_loss import refuse_undefined

FILE = "probe.json"


class Prober:
    """Takes the loss of models on the probe-validation rows.

    Args:
        trainers: makes the Trainer of each stage.
        graph: runs the stages.
        data: has the rows.
        base: its losses are what others are relative to.
        loading: how models are loaded.
    """

    def __init__(
        self, trainers: TrainerFactory, graph: StageGraph, data: RecipeData, base: Model, loading: Loading
    ) -> None:
        self.trainers, self.graph, self.data, self.base, self.loading = trainers, graph, data, base, loading

    def stage(self, model: Model) -> Stage:
        """The stage that probes a model; its result is ``metric`` values by ``<data set>/<metric>``."""
        content = {
            **self.data.probe_content(),
            "given": model.identity(self.loading),
            "trainer": self.trainers.settings("validation"),
        }

        def run(folder: Path) -> None:
            trainer = self.trainers.make_silent(model.name)
            module = EmbeddingModule(self.loading.load(model.folder(self.graph)))
            trainer.validate(module, datamodule=self.data.probe(), verbose=False)
            if is_main_process():
                found = {key.removeprefix("val/"): float(value) for key, value in trainer.callback_metrics.items()}
                write_json(folder / FILE, found)

        texts = 2 * self.data.probe_arguments["validation_size"]
        return Stage("probe", model.name, content, run, model.inputs, texts)

    def losses(self, model: Model) -> dict[str, float]:
        """Data set to mean loss; runs the stage where it has not run."""
        found = read_json(self.graph.run(self.stage(model)) / FILE)
        return {name: found[f"{name}/loss"] for name in self.data.probe_weights()}

    @cached_property
    def base_losses(self) -> dict[str, float]:
        """Those of the base, whose weights are hashed each time its stage is asked for."""
        losses = self.losses(self.base)
        refuse_undefined(losses)
        return losses

    def objective(self, model: Model) -> float:
        """The mean loss relative to the base's, weighted as a position's objective is, without its regulariser."""
        weights, at_base, losses = self.data.probe_weights(), self.base_losses, self.losses(model)
        return sum(w * losses[name] / at_base[name] for name, w in weights.items()) / sum(weights.values())
