"""Recipes that merge experts."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser

from callbacks import CoefficientTrace
from datamodules import DataSource, ProbeDataModule, SplitTask
from lightning_app.cli import AppCLI
from lightning_app.model import Model
from lightning_app.parser import instantiate
from lightning_app.pipeline import MergeSettings, Pipeline
from lightning_app.recipe import ExpertRecipe
from lightning_app.stages import Stage
from modules import Expert, MergeMethod, MergeModule, Search, Slerp, UserError

NAME = "self_positioning"
"""The learned merge of the recipe, in the table and in TensorBoard."""


class MergeCLI(AppCLI):
    """Experts, joint model, baselines, Self Positioning, scores, report."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(MergeModule, ProbeDataModule, args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``recipes`` and ``baselines``."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--recipes", type=dict[str, ExpertRecipe], default={}, help="Models to train, by name.")
        parser.add_argument("--baselines", type=list[str], default=[], help="Other rows of the final table.")

    def prepare(self) -> Stage:
        """Train what has to be there before there can be a `MergeModule`."""
        self.pipeline = Pipeline(self._settings(), self.trainers, self.graph)
        self.baselines = self.pipeline.baseline_models()
        for model in [*self.pipeline.experts.values(), *self.baselines]:
            # Merges need no place among these: they are made of what is trained here.
            if model.stage is not None and model.stage.kind == "model":
                self._run_or_refuse(model.stage)
        experts = self.pipeline.expert_folders()
        self.section.model.experts = {name: Namespace(path=e.path, recipe=None) for name, e in experts.items()}
        self.pipeline.collect_statistics(self.method)
        method = self.section.model.method
        content = method.as_dict() if isinstance(method, Namespace) else {"class_path": "slerp"}
        return self.pipeline.position_stage(content, self._train, NAME)

    def instantiate_classes(self) -> None:
        """Give the probe its rows."""
        super().instantiate_classes()
        if self.stage is not None:
            self.datamodule.tasks = self.pipeline.probe_tasks()
            self.datamodule.task_weights = self.pipeline.probe_weights()

    def stage_callbacks(self) -> list[Callback]:
        """Also the path of the coefficients."""
        assert self.stage is not None
        return [*super().stage_callbacks(), CoefficientTrace(self.graph.folder(self.stage))]

    def fit(self, **_: Any) -> None:
        """Learn the position, make the other merges, score everything, report."""
        assert self.stage is not None
        models = [*self.baselines, Model(NAME, stage=self.stage)]
        for model in models:
            for stage in model.inputs:
                self.graph.run(stage)
        self.finish(models)

    def data_sets(self) -> list[SplitTask]:
        """Those of all recipes and of the probe."""
        return list(self.pipeline.tasks.values())

    def _train(self, folder: Path) -> None:
        self.pipeline.train_position(folder, self.model, self.trainer, self.datamodule)

    def _run_or_refuse(self, stage: Stage) -> None:
        if self.subcommand != "fit" and not self.graph.is_done(stage):
            raise UserError(f"'{stage.name}' is not trained yet under {self.section.run_dir}: run fit first")
        self.graph.run(stage)

    def _settings(self) -> MergeSettings:
        """The recipe's sections as objects; the model itself cannot be built before its experts are there."""
        section = self.section
        objects = instantiate(
            recipes=(dict[str, ExpertRecipe], section.recipes),
            experts=(dict[str, Expert], section.model.experts),
            tasks=(list[DataSource] | None, section.data.tasks),
            method=(MergeMethod | None, section.model.method),
            search=(Search | None, section.model.search),
        )
        self.method: MergeMethod = objects.method or Slerp()
        self.method.places(list(objects.experts))  # what is wrong with it shows before training
        options = {k: v for k, v in section.model.as_dict().items() if k not in ("base", "experts", "method")}
        probe = {k: v for k, v in section.data.as_dict().items() if k != "tasks"}
        return MergeSettings(
            section.model.base,
            objects.experts,
            options,
            objects.search,
            probe,
            objects.tasks,
            objects.recipes,
            section.baselines,
        )
