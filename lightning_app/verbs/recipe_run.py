"""The common part of the verbs of a recipe: its models, the graph that makes them, and the finished model."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from callbacks import MtebCallback
from callbacks.mteb.task_texts import task_texts
from datamodules.decontamination import evaluated_ids
from datamodules.text_ids import TextIds
from lightning_app.recipe.recipe_parser import dump
from lightning_app.recipe.recipe_settings import read_settings
from lightning_app.report.pace import Pace
from lightning_app.report.tensorboard_log import write_recipe
from lightning_app.stages.learn import CHECKPOINT, Learn
from lightning_app.stages.model_loading import ModelLoading
from lightning_app.stages.published_model import finished_model
from lightning_app.stages.recipe_models import RecipeModels
from lightning_app.stages.scorer import Scorer, scoring_content
from lightning_app.stages.screen import Screen, Style
from lightning_app.stages.stage_graph import StageGraph
from lightning_app.stages.train import Train
from lightning_app.stages.trainer_settings import SharedTrainer
from lightning_app.verbs.quiet_libraries import quiet_libraries
from modules import UserError
from modules.checkpoints.whole import is_whole
from modules.embedding_module import EmbeddingModule

SCHEDULE = ("every_n_epochs", "every_n_steps", "at_start", "at_end")
"""Arguments of `MtebCallback` that say when tasks are scored while a position is learned."""


class RecipeRun:
    """A parsed recipe; its models are known once `models` is asked for, which reads the data.

    Args:
        config: as `parse` returns it.
    """

    def __init__(self, config: Namespace) -> None:
        self.config = config
        quiet_libraries(self.style)
        self.settings = read_settings(config)
        if self.style != "text":
            self.settings.trainer["enable_progress_bar"] = False
        self.mteb = MtebCallback(**self.settings.mteb)
        self.trainer = SharedTrainer(self.settings.trainer, self.settings.run_dir, self.settings.seed)

    @property
    def style(self) -> Style:
        """The style of what is said."""
        if self.config.get("log_json"):
            return "json"
        return "quiet" if self.config.get("quiet") else "text"

    @property
    def device(self) -> torch.device:
        """The device of a process of the run."""
        return self.trainer.of_validation().device

    @cached_property
    def models(self) -> RecipeModels:
        """The models of the recipe.

        Raises:
            UserError: a callback follows scores that nobody takes.
        """
        follows = bool(self.trainer.following_scores())
        if follows and not self.mteb.scheduled:
            hint = "give mteb.every_n_epochs"
            raise UserError(
                f"trainer.callbacks: a callback follows MTEB scores, and none are taken in training; {hint}"
            )
        return RecipeModels(
            self.settings,
            watch=self._watch,
            followed=self._followed() if follows else None,
            decontaminate=self._task_texts() if self.settings.decontaminate else None,
        )

    def graph(self, *, fresh: bool = False) -> StageGraph:
        """Return the graph of the run folder.

        Args:
            fresh: forget what is there.
        """
        screen = Screen(self.style, lambda: Pace(self.models).per_text)
        return StageGraph(self.settings.run_dir, fresh, screen)

    def scorer(self, **caps: int | None) -> Scorer:
        """Return what scores models on the recipe's tasks.

        Args:
            caps: other caps than the recipe's.
        """
        return Scorer(MtebCallback(**self.settings.mteb | caps), self.device)

    def save_config(self) -> None:
        """Write the resolved recipe to ``<run_dir>/config.yaml``, and to TensorBoard."""
        folder = Path(self.settings.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        recipe = dump(self.config)
        (folder / "config.yaml").write_text(recipe, encoding="utf-8")
        write_recipe(recipe, folder / "logs")

    def module(self) -> EmbeddingModule:
        """Return the module of the run's own model, at the checkpoint that the command line names, or at its end.

        Raises:
            UserError: it is not made yet.
        """
        stage, graph = self.models.main.stage, self.graph()
        assert isinstance(stage, Learn | Train)
        for needed in stage.inputs if isinstance(stage, Learn) or self.config.ckpt_path else (stage,):
            if not graph.is_done(needed):
                raise UserError(f"'{needed.name}' is not trained yet under {self.settings.run_dir}: run fit first")
        if isinstance(stage, Train):
            if not self.config.ckpt_path:
                return stage.module(str(graph.folder(stage) / "model"))
            return load_checkpoint(stage.module(stage.start.folder(graph)), Path(self.config.ckpt_path), given=True)
        path = self.config.ckpt_path or graph.folder(stage) / CHECKPOINT
        return load_checkpoint(stage.module(graph), Path(path), given=bool(self.config.ckpt_path))

    def encoder(self) -> Any:
        """Return the encoder that ``--folder``, ``--ckpt_path`` or the run folder names, on the run's device."""
        if self.config.ckpt_path and not self.config.folder:
            return self.module().encoder.to(self.device)
        folder = self.config.folder or finished_model(self.settings.run_dir)
        loading = ModelLoading.of(self.settings)
        return loading.load(folder).to(self.device)

    def _watch(self) -> list[Any]:
        return [MtebCallback(**self.settings.mteb)] if self.mteb.scheduled else []

    def _task_texts(self) -> dict[str, TextIds]:
        if not self.mteb.selection:
            raise UserError("decontaminate: there are no tasks whose texts could be left out; name mteb.tasks")
        return {task.metadata.name: evaluated_ids(task_texts(task)) for task in self.mteb.load()}

    def _followed(self) -> dict[str, Any]:
        return scoring_content(self.mteb) | {key: self.settings.mteb[key] for key in SCHEDULE}


def load_checkpoint(module: EmbeddingModule, path: Path, *, given: bool) -> EmbeddingModule:
    """Load a checkpoint into a module, as Lightning would.

    Args:
        module: as it is before training.
        path: the checkpoint.
        given: whether the user has named it.

    Raises:
        UserError: there is none, or half of one.
    """
    if not path.is_file():
        hint = "" if given else "; run fit first, or name one with --ckpt_path"
        raise UserError(f"there is no checkpoint {path}{hint}")
    if not is_whole(path):
        hint = "name another one" if given else "run fit again, which makes it anew"
        raise UserError(f"{path} is damaged, or no checkpoint: {hint}")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
    return module
