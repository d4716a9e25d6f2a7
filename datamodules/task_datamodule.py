"""Batches to train an expert or a joint model on."""

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray

from datamodules.batching import BatchLoader, Mode, OneTaskBatches, ResumableLoader, apportion, evaluation_batches
from datamodules.collate import Collator, Tokenize
from datamodules.sources.data_source import DataSource
from datamodules.splits import SplitTask, load_tasks
from datamodules.task_data import TaskData
from datamodules.token_cache import TaskTokens
from modules.encoding.prompts import Side, SidePrompts
from modules.encoding.tokenization import Tokenization
from modules.errors import UserError
from modules.losses.task_batch import TaskBatch


class _Module(Protocol):
    """The module that is trained on a data module, as the data module knows it."""

    @property
    def side_prompts(self) -> SidePrompts:
        """The prompts of its encoder."""
        ...

    def tokenization(self, max_length: int | None = None) -> Tokenize:
        """Return how its encoder tokenises texts."""
        ...


class SplitDataModule(LightningDataModule):
    """The common part of training and probing: tasks in three parts, a tokenizer from the model, validation loaders.

    Args:
        batch_size: rows a process and step.
        max_length: tokens a text; None: the model's own limit.
        num_workers: processes that tokenise ahead.
        seed: of the splits and of all orders.
    """

    def __init__(self, batch_size: int, max_length: int | None, num_workers: int, seed: int) -> None:
        super().__init__()
        if batch_size < 2:
            raise UserError(f"batch_size is {batch_size}; in-batch losses need at least 2")
        self.batch_size, self.max_length = batch_size, max_length
        self.num_workers, self.seed = num_workers, seed
        self.splits: list[SplitTask] = []

    @property
    def task_losses(self) -> dict[str, str]:
        """Name of each data set to the name of its loss, in the order of the validation loaders."""
        return {split.name: split.validation.loss.name for split in self.splits}

    @property
    def validation_identity(self) -> dict[str, list[str | int | None]]:
        """Data set to what a validation loss on it depends on, beside the weights: rows, loss, prompts, and the cut."""
        cut = [self.batch_size, self.max_length]
        return {
            split.name: [split.validation.fingerprint(), *self._prompted(split.validation).prompts, *cut]
            for split in self.splits
        }

    @property
    def side_prompts(self) -> dict[str, dict[Side, str | None]]:
        """Data set to the prompts that it is trained with, side by side; see `TaskData.side_prompts`."""
        return {split.name: self._prompted(split.expert).side_prompts() for split in self.splits}

    def val_dataloader(self) -> list[BatchLoader]:
        """Return a loader per data set over its validation rows, in a fixed order; empty for a data set without any."""
        return [self._evaluation_loader(split.validation) for split in self.splits]

    def _evaluation_loader(self, data: TaskData) -> BatchLoader:
        rank, world_size = self._place()
        batches = evaluation_batches(len(data), self.batch_size, rank=rank, world_size=world_size)
        return BatchLoader(batches, self._collator([data], [None]), self.num_workers)

    def _training_loader(self, data: list[TaskData], weights: Sequence[float], mode: Mode) -> ResumableLoader:
        rank, world_size = self._place()
        batches = OneTaskBatches(
            [task.name for task in data],
            [len(task) for task in data],
            weights,
            self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            mode=mode,
        )
        # A probe is small, and gone through often; of the rows of an expert, a short training uses few.
        most = self._most_batches(len(batches)) if mode == "rows" else None
        used = [None] * len(data) if most is None else batches.first_rows(most)
        return ResumableLoader(batches, self._collator(data, used), self.num_workers)

    def _collator(self, data: Sequence[TaskData], used: Sequence[NDArray[np.int64] | None]) -> Collator:
        """The collator of data sets, with the tokens of the rows that are going to be used, or None for all."""
        tokenize = self._module.tokenization(self.max_length)
        prompted = [self._prompted(task) for task in data]
        if not isinstance(tokenize, Tokenization) or tokenize.key is None:
            return Collator(prompted, tokenize)
        each = zip(prompted, used, strict=True)
        tokens = [TaskTokens(task, tokenize, rows) if len(task) else None for task, rows in each]
        return Collator(prompted, tokenize, tokens)

    def _most_batches(self, per_epoch: int) -> int | None:
        """Return the number of batches that the trainer takes at most; None: not known.

        Args:
            per_epoch: batches of this process in an epoch.
        """
        assert self.trainer is not None
        steps, epochs = self.trainer.max_steps, self.trainer.max_epochs
        limits = [steps * self.trainer.accumulate_grad_batches] if steps >= 0 else []
        limits += [epochs * per_epoch] if epochs is not None and epochs >= 0 else []
        return min(limits, default=None)

    def _place(self) -> tuple[int, int]:
        """Rank of this process and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _module(self) -> _Module:
        assert self.trainer is not None, "tokenizer and prompts are those of the trainer's module"
        return cast(_Module, self.trainer.lightning_module)

    def _prompted(self, data: TaskData) -> TaskData:
        """The data set as the module reads it, which can be another one in the next fit."""
        return data.with_prompts(self._module.side_prompts)


class TaskDataModule(SplitDataModule):
    """One-task batches over the expert rows of one or more data sets.

    Args:
        tasks: where the data sets come from, or data sets that are split already.
        validation_size: rows kept out of each data set that is not split yet.
        batch_size: rows a process and step; all processes together train on one batch of one data set.
        max_length: tokens a text; None: the model's own limit.
        num_workers: processes that tokenise ahead.
        seed: of the splits and of all orders.
    """

    def __init__(
        self,
        tasks: list[DataSource] | list[SplitTask],
        validation_size: int = 256,
        batch_size: int = 32,
        max_length: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, max_length, num_workers, seed)
        self.tasks = tasks
        self.validation_size = validation_size

    def setup(self, stage: str | None = None) -> None:
        """Read the data sets, once.

        Raises:
            UserError: for whatever ``load_tasks`` finds, or if some data sets have a share and others have none.
        """
        if not self.splits:
            self.splits = split_tasks(self.tasks, 0, self.validation_size, self.seed)
        shares = {split.name: split.share for split in self.splits}
        given = [share for share in shares.values() if share is not None]
        if len(given) not in (0, len(shares)) or any(share <= 0 for share in given):
            raise UserError(f"shares are {shares}; give every data set a share above 0, or none of them")

    def train_dataloader(self) -> ResumableLoader:
        """Batches in proportion to the shares, or to the rows if none are given."""
        weights = [len(split.expert) if split.share is None else split.share for split in self.splits]
        return self._training_loader([split.expert for split in self.splits], weights, mode="rows")


def split_tasks(
    tasks: Sequence[DataSource] | Sequence[SplitTask],
    probe_size: int | dict[str, int],
    validation_size: int | dict[str, int],
    seed: int,
) -> list[SplitTask]:
    """The tasks as they are if they are split already; else read and split with these sizes for each data set."""
    splits = [task for task in tasks if isinstance(task, SplitTask)]
    if len(splits) == len(tasks) > 0:
        return splits
    sources = [task for task in tasks if isinstance(task, DataSource)]
    return list(load_tasks(sources, probe_size=probe_size, validation_size=validation_size, seed=seed).values())


def first_batches(data: Sequence[TaskData], rows: int, batch_size: int, tokenize: Tokenize) -> Iterator[TaskBatch]:
    """Yield one pass over the first rows of data sets, each batch of one of them.

    Args:
        data: the data sets, with the prompts of the model.
        rows: of all together, in proportion to their sizes; all rows if there are no more.
        batch_size: rows of a batch, at most.
        tokenize: texts and their prompts -> padded token ids.
    """
    sizes = [len(task) for task in data]
    for task, size in zip(data, apportion(min(rows, sum(sizes)), sizes), strict=True):
        yield from BatchLoader(evaluation_batches(size, batch_size) if size else [], Collator([task], tokenize))
