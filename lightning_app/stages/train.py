"""The stage that trains a model: an expert, or a joint model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from callbacks import CostMeter, GradientConflict, KeepBest, KeepSteps, ResumableRun
from datamodules import SplitTask, TaskData, TaskDataModule
from lightning_app.recipe.class_path import maker_of
from lightning_app.recipe.model_recipes import StopEarly, Training
from lightning_app.stages.model import Model
from lightning_app.stages.stage import BESIDE_KEY, ResultFolders, Stage
from lightning_app.stages.trainer_settings import TrainerSettings
from modules import ContrastiveModule

KEPT = "kept"
"""The folder of the result that has the models of steps on the way, each named by its step."""

BACKWARD = 3
"""Passes that a text counts for which is trained on."""


@dataclass(frozen=True)
class TrainingRows:
    """A data set of a training.

    Args:
        split: its parts; the training reads those of experts and of validation.
    """

    split: SplitTask

    def key_content(self) -> list[Any]:
        """Return what the training depends on."""
        return [self.split.name, self.split.expert, self.split.validation, self.split.share]


@dataclass(frozen=True)
class Train(Stage):
    """A model that is trained with contrastive losses, in the folder ``model`` of the result.

    Args:
        name: of the model.
        start: the model that it is trained from.
        training: how.
        rows: the data sets.
        groups: group to the names of its data sets, between which gradients are compared.
        trainer: of this training.
        others: the probe rows of other tasks, which a gentle expert watches.
        joint: whether it is trained on the rows of several experts.
    """

    kind = "model"

    start: Model
    training: Training
    rows: tuple[TrainingRows, ...]
    groups: dict[str, list[str]]
    trainer: TrainerSettings
    others: tuple[TaskData, ...] = ()
    joint: bool = field(default=False, metadata=BESIDE_KEY)

    @property
    def title(self) -> str:
        """The stage as the screen calls it."""
        return f"{'joint model' if self.joint else 'expert'} {self.name}"

    @property
    def texts(self) -> int:
        """About how many texts pass through the model."""
        return 2 * BACKWARD * self.training.max_steps * self.training.batch_size

    @property
    def tasks(self) -> list[SplitTask]:
        """The data sets."""
        return [rows.split for rows in self.rows]

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Train the model, from where an interrupted training was, and save it."""
        steps, tasks = self.training.max_steps, self.tasks
        rows = sum(len(task.expert) for task in tasks)
        rank_zero_info(f"  training {steps} steps on {rows:,} rows of {', '.join(task.name for task in tasks)}")
        self.trainer.seed_all()
        accumulated = self.trainer.counted.get("accumulate_grad_batches") or 1
        trainer = self.trainer.make(
            self.name,
            self._callbacks(folder),
            max_steps=steps,
            max_epochs=-1,
            num_sanity_val_steps=0,
            val_check_interval=(self.training.validate_every or steps) * accumulated,
            check_val_every_n_epoch=None,
        )
        module = self.module(self.start.folder(graph))
        self.trainer.fit(trainer, module, self.data())
        if trainer.is_global_zero:
            module.save(folder / "model")

    def module(self, model: str) -> ContrastiveModule:
        """Return the module that trains a model.

        Args:
            model: the folder or hub name of what it starts from.
        """
        training = self.training
        options: dict[str, Any] = {key: getattr(training, key) for key in ("lr", "warmup", "weight_decay")}
        if training.optimizer is not None:
            options["optimizer"] = maker_of(training.optimizer, Optimizer, "optimizer")
        if training.schedule is not None:
            options["schedule"] = maker_of(training.schedule, LRScheduler, "schedule")
        return ContrastiveModule(model, **self.start.loading.options(model), **options)

    def _callbacks(self, folder: Path) -> list[Callback]:
        training = self.training
        callbacks: list[Callback] = []
        if training.keep_best or training.stop_early:
            stop = training.stop_early or StopEarly()
            cut = (training.batch_size, training.max_length)
            callbacks.append(KeepBest(folder, self.others, stop.others_at_most, stop.patience, *cut))
        callbacks += [ResumableRun(folder), CostMeter(folder)]  # the checkpoint to go on from knows the best step
        if training.keep:
            callbacks.append(KeepSteps(folder / KEPT, training.keep.every))
        if training.conflict_every:
            callbacks.append(GradientConflict(folder, training.conflict_every, groups=self.groups))
        return callbacks

    def data(self) -> TaskDataModule:
        """Return the batches."""
        training = self.training
        return TaskDataModule(
            self.tasks, batch_size=training.batch_size, max_length=training.max_length, seed=self.trainer.seed
        )
