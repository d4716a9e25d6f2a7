"""Batches to learn a position on."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from datamodules.batching import ResumableLoader, WholeEpochLoader, apportion
from datamodules.sources.data_source import DataSource
from datamodules.splits import SplitTask
from datamodules.task_data import TaskData
from datamodules.task_datamodule import SplitDataModule, split_tasks
from modules.errors import UserError
from modules.losses.task_batch import LossConfig


class ProbeDataModule(SplitDataModule):
    """Make batches of one task each from the probe rows, held out of every expert and balanced over the data sets.

    Args:
        tasks: where the data sets come from, or data sets that are split already; None: filled in before ``setup``.
        size: probe rows of all data sets together.
        validation_size: validation rows of all data sets together.
        batch_size: rows of a batch; every process takes batches of its own, with negatives of their own.
        max_length: tokens a text; None: the model's own limit.
        num_workers: processes that tokenise ahead.
        seed: of the splits and of all orders.
        reserve: probe rows to hold out, of which ``size`` are used; None: ``size``. A sweep over sizes reserves the
            largest, so that the experts stay the same.
        task_weights: relative number of rows and batches of each data set; None: equal.
        loss: in place of the data sets' own. Losses at one temperature compare models that were trained at several.
    """

    def __init__(
        self,
        tasks: list[DataSource] | list[SplitTask] | None = None,
        size: int = 1024,
        validation_size: int = 256,
        batch_size: int = 32,
        max_length: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        reserve: int | None = None,
        task_weights: dict[str, float] | None = None,
        loss: LossConfig | None = None,
    ) -> None:
        super().__init__(batch_size, max_length, num_workers, seed)
        if reserve is not None and reserve < size:
            raise UserError(f"reserve is {reserve}, less than the probe's size {size}; raise it or leave it out")
        self.tasks, self.task_weights, self.loss = tasks, task_weights, loss
        self.size, self.validation_size, self.reserve = size, validation_size, reserve

    def setup(self, stage: str | None = None) -> None:
        """Read the data sets and take the probe and validation rows that are used, once.

        Raises:
            UserError: there are no tasks, the weights fit no data set, or whatever ``load_tasks`` finds.
        """
        if self.splits:
            return
        if not self.tasks:
            raise UserError("the probe has no data sets; give 'tasks', or experts whose recipes name their data")
        names = [task.name for task in self.tasks]
        reserved = self._balanced(self.reserve or self.size, names)
        used, validation = self._balanced(self.size, names), self._balanced(self.validation_size, names)
        self.splits = [
            replace(
                split,
                probe=_first(split.probe, used[split.name]),
                validation=_first(split.validation, validation[split.name]),
            ).with_loss(self.loss)
            for split in split_tasks(self.tasks, reserved, validation, self.seed)
        ]

    @property
    def objective_weights(self) -> dict[str, float]:
        """Data set to its part of the objective; the parts add up to 1."""
        names = list(self.task_losses)
        weights = self._weights(names)
        return {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}

    def train_dataloader(self) -> ResumableLoader | WholeEpochLoader:
        """Batches in proportion to the weights; processes take them in turn.

        For a module that asks for the ``full_probe``, an epoch is one list of all of them, the same in every epoch.
        """
        weights = self._weights(list(self.task_losses))
        loader = self._training_loader([split.probe for split in self.splits], weights, mode="batches")
        full_probe = self.trainer is not None and getattr(self.trainer.lightning_module, "full_probe", False)
        return WholeEpochLoader(loader) if full_probe else loader

    def _balanced(self, total: int, names: list[str]) -> dict[str, int]:
        return dict(zip(names, apportion(total, self._weights(names)), strict=True))

    def _weights(self, names: list[str]) -> list[float]:
        weights = self.task_weights or dict.fromkeys(names, 1.0)
        check_task_weights(weights, names)
        return [weights[name] for name in names]


def check_task_weights(weights: Mapping[str, float], names: Collection[str]) -> None:
    """Refuse weights that are not one above 0 for each data set.

    Raises:
        UserError: they are not.
    """
    if set(weights) != set(names) or min(weights.values()) <= 0:
        raise UserError(f"task_weights is {weights}; give a weight above 0 for each of {', '.join(names)}")


def _first(data: TaskData, size: int) -> TaskData:
    return data.subset(range(min(size, len(data))))
