"""Recipes that merge experts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import CoefficientTrace
from datamodules import ProbeDataModule, SplitTask
from lightning_app.recipe.model_recipes import ExpertRecipe, MergeRecipe
from lightning_app.recipe.named_merges import MAIN
from lightning_app.recipe.run_settings import read_settings
from lightning_app.recipe.study_recipe import StudyRecipe
from lightning_app.stages.model import Model
from lightning_app.stages.pipeline import Pipeline
from lightning_app.stages.stage_graph import Stage
from lightning_app.verbs.app_cli import AppCLI
from modules import MergeModule, UserError


class MergeCLI(AppCLI):
    """Experts, joint model, baselines, Self Positioning, scores, report."""

    def __init__(self, args: list[str], run: bool = True) -> None:
        super().__init__(MergeModule, ProbeDataModule, args, run)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``recipes``, ``merges``, ``baselines`` and ``study``."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--recipes", type=dict[str, ExpertRecipe], default={}, help="Models to train, by name.")
        parser.add_argument("--merges", type=dict[str, MergeRecipe], default={}, help="Models to merge, by name.")
        parser.add_class_arguments(StudyRecipe, "study")
        parser.add_argument("--baselines", type=list[str], default=[], help="Other rows of the final table.")

    def prepare(self) -> Stage:
        """Train what has to be there before there can be a `MergeModule`."""
        self.pipeline = Pipeline(read_settings(self.section), self.trainers, self.graph)
        self.show_rows()
        self.baselines = self.pipeline.baseline_models()
        stage = self.pipeline.model(MAIN).stage  # what is wrong with it shows before training
        assert stage is not None
        if self.subcommand == "fit":
            for line in [*self.trainers.remarks(MAIN), *self.pipeline.remarks()]:
                rank_zero_info(line)
        for model in [*self.pipeline.experts.values(), *self.baselines]:
            # Merges need no place among these: they are made of what is trained here.
            if model.stage is not None and model.stage.kind == "model":
                self._run_or_refuse(model.stage)
        merge = self.pipeline.merge(MAIN)
        self.section.model.experts = self.pipeline.expert_folders()
        self.section.model.settings_of = self.pipeline.merge_stages.settings_of(merge)
        self.pipeline.merge_stages.collect_statistics(merge)
        return replace(stage, run=self._train)  # by the outer Trainer, whose settings are the same

    def instantiate_classes(self) -> None:
        """Give the merge its prompts, and the probe its rows."""
        super().instantiate_classes()
        if self.stage is not None:
            assert isinstance(self.model, MergeModule)
            self.pipeline.merge_stages.take_prompts(self.model, self.pipeline.merge(MAIN))
            self.datamodule.tasks = self.pipeline.data.probe_tasks()
            self.datamodule.task_weights = self.pipeline.data.probe_weights()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Without what the position's search cannot work with."""
        assert isinstance(self.model, MergeModule)
        return super().instantiate_trainer(**self.trainers.unusable(self.model.search, say=False), **kwargs)

    def stage_callbacks(self) -> list[Callback]:
        """Also the path of the coefficients."""
        assert self.stage is not None
        return [*super().stage_callbacks(), CoefficientTrace(self.graph.folder(self.stage))]

    def fit(self, **_: Any) -> None:
        """Learn the position, make the other merges, score everything, report."""
        assert self.stage is not None
        # First the one that the outer Trainer trains: merges that are made of it find it done.
        main = Model(MAIN, stage=self.stage)
        for model in [main, *self.baselines]:
            for stage in model.inputs:
                self.graph.run(stage)
        self.finish([*self.baselines, main])

    def data_sets(self) -> list[SplitTask]:
        """Return the data sets of all recipes and of the probe."""
        return list(self.pipeline.data.tasks.values())

    def _train(self, folder: Path) -> None:
        self.trainers.unusable(self.model.search, say=True)
        self.pipeline.merge_stages.train_position(folder, self.model, self.trainer, self.datamodule)

    def _run_or_refuse(self, stage: Stage) -> None:
        if self.subcommand != "fit" and not self.graph.is_done(stage):
            raise UserError(f"'{stage.name}' is not trained yet under {self.section.run_dir}: run fit first")
        self.graph.run(stage)
