"""Recipes that train a single expert, or a joint model, by itself."""

from pathlib import Path
from typing import Any

from datamodules import DataSource, SplitTask, TaskDataModule, load_tasks
from lightning_app.recipe.recipe_parser import instantiate
from lightning_app.stages.model import Model
from lightning_app.stages.stage_graph import Stage
from lightning_app.verbs.app_cli import AppCLI
from modules import ContrastiveModule

NAME = "expert"
"""The trained model, in the table and in TensorBoard."""


class ExpertCLI(AppCLI):
    """One contrastive training, scored against the model that it started from."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(ContrastiveModule, TaskDataModule, args)

    def prepare(self) -> Stage:
        """The outer Trainer's stage; none comes before it."""
        section = self.section
        self.base = Model("base", path=section.model.base)
        sources = instantiate(tasks=(list[DataSource], section.data.tasks)).tasks
        size, seed = section.data.validation_size, section.data.seed
        self.tasks = list(load_tasks(sources, probe_size=0, validation_size=size, seed=seed).values())
        self.show_rows()
        content = {
            "base": self.base.identity(self.loading),
            "model": {key: section.model[key] for key in ("lr", "warmup", "weight_decay")},
            "data": {key: section.data[key] for key in ("batch_size", "max_length", "seed")},
            "rows": {task.name: [task.expert.fingerprint(), task.share] for task in self.tasks},
            "trainer": self.trainers.settings("position"),
            **self.trainers.own,
        }
        return Stage("model", NAME, content, self._train)

    def instantiate_classes(self) -> None:
        """Give the data module the rows that were read already."""
        super().instantiate_classes()
        if self.stage is not None:
            self.datamodule.tasks = self.tasks

    def fit(self, **_: Any) -> None:
        """Train, score, report."""
        assert self.stage is not None
        self.graph.run(self.stage)
        self.finish([self.base, Model(NAME, stage=self.stage)])

    def data_sets(self) -> list[SplitTask]:
        """Return the data sets of the recipe."""
        return self.tasks

    def _train(self, folder: Path) -> None:
        self.trainers.seed_stage()
        self.trainers.fit(self.trainer, self.model, self.datamodule)
        self.trainer.save_checkpoint(folder / "last.ckpt", weights_only=True)
        if self.trainer.is_global_zero:
            self.model.save(folder / "model")
