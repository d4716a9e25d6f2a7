"""A trace of how far the gradients of a joint model's tasks agree."""

from itertools import combinations, islice
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.csv_trace import CsvTrace
from callbacks.resumable_run import was_interrupted
from datamodules.task_datamodule import SplitDataModule
from modules.errors import UserError, nearest
from modules.losses.gradient_cosines import gradient_cosines
from modules.losses.task_batch import TaskBatch


class GradientConflict(Callback):
    """Compares the gradients of groups of data sets at the start of training, every few steps, and at its end.

    Always on the same rows: the first of each data set's validation split; of several processes, the main one does it
    on the rows that it validates. Training goes on as if nothing had happened. The cosine of each pair goes

    - to ``gradient_cosines.csv``: ``step``, ``task_a``, ``task_b``, ``cosine``. A resumed run goes on where its
      checkpoint was written. ``fast_dev_run`` writes no file;
    - to the trainer's loggers: ``gradient_cosine/<task_a>~<task_b>``.

    Args:
        folder: of the CSV file.
        every_n_steps: optimiser steps from one comparison to the next.
        batches_per_task: validation batches of each data set, at most.
        groups: name to data sets, whose mean loss is the group's; None: every data set is a group.

    Raises:
        UserError: in ``fit``, if there are fewer than two groups, or a group names a data set that is not trained on
            or has no validation rows.

    Example:
        >>> Trainer(callbacks=[GradientConflict("run", every_n_steps=50)]).fit(module, datamodule=data)
    """

    FILE = "gradient_cosines.csv"

    def __init__(
        self,
        folder: str | Path,
        every_n_steps: int,
        batches_per_task: int = 2,
        groups: dict[str, list[str]] | None = None,
    ) -> None:
        for key, value in {"every_n_steps": every_n_steps, "batches_per_task": batches_per_task}.items():
            if value < 1:
                raise UserError(f"{key} is {value}; gradients can be compared with a number of at least 1")
        self.every_n_steps = every_n_steps
        self.batches_per_task = batches_per_task
        self.groups = groups
        self._trace = CsvTrace(Path(folder) / self.FILE)
        self._compared: dict[str, list[str]] = {}
        self._batches: dict[str, list[TaskBatch]] = {}
        self._step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the data sets of every group."""
        if stage == "fit":
            rows = {split.name: len(split.validation) for split in _data(trainer).splits}
            self._compared = self.groups or {name: [name] for name in rows}
            _refuse_unusable(self._compared, rows)
            self._step = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the rows, and compare at the start; or where the run is resumed, if that step is one to compare at."""
        if not trainer.is_global_zero:
            return
        data = _data(trainer)
        self._batches = {
            split.name: list(islice(loader, self.batches_per_task))
            for split, loader in zip(data.splits, data.val_dataloader(), strict=True)
            if any(split.name in names for names in self._compared.values())
        }
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._trace.begin(["step", "task_a", "task_b", "cosine"], trainer.global_step)
        self._compare_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Compare if enough steps were taken, but not again while gradients are accumulated."""
        self._compare_if_due(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare at the end, unless a signal brought it about."""
        if not was_interrupted(trainer):
            self._compare(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare at the end, if a resumed run finds that it had ended, and does not start to train."""
        if self._step is None and not was_interrupted(trainer):
            self.on_train_start(trainer, pl_module)
            self._compare(trainer, pl_module)

    def _compare_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._compare(trainer, pl_module)

    def _compare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare and publish, once a step."""
        step = trainer.global_step
        if not trainer.is_global_zero or step == self._step:
            return
        self._step = step
        batches = {name: [batch.to(pl_module.device) for batch in part] for name, part in self._batches.items()}
        with trainer.precision_plugin.forward_context():
            cosines = gradient_cosines(pl_module.encoder, batches, self._compared)  # type: ignore[arg-type]
        pairs = [(a, b, float(cosines[i, j])) for (i, a), (j, b) in combinations(enumerate(self._compared), 2)]
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._trace.add([(step, *pair) for pair in pairs])
        for logger in trainer.loggers:
            logger.log_metrics({f"gradient_cosine/{a}~{b}": cosine for a, b, cosine in pairs}, step=step)


def _data(trainer: Trainer) -> SplitDataModule:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, SplitDataModule):
        raise UserError("GradientConflict needs a TaskDataModule as the trainer's datamodule")
    return data


def _refuse_unusable(groups: dict[str, list[str]], rows: dict[str, int]) -> None:
    """Raise a UserError if gradients of these groups cannot be compared; `rows` are the validation rows by data set."""
    if len(groups) < 2:
        raise UserError(f"only {', '.join(groups)} to compare gradients of; give at least two groups of data sets")
    for group, names in groups.items():
        if not names:
            raise UserError(f"groups.{group}: names no data set")
        for name in names:
            if name not in rows:
                hint = nearest(name, rows, f"there are {', '.join(rows)}")
                raise UserError(f"groups.{group}: no data set is called '{name}'; {hint}")
            if not rows[name]:
                raise UserError(f"{name}: no validation rows to compare gradients on; raise its validation size")
