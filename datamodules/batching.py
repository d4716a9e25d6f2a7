"""In which order rows are seen: one-task batches that any position can be resumed from."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Sampler

from modules.errors import UserError
from modules.losses.task_batch import TaskBatch

Batch = list[tuple[int, int]]
"""(task, row) of every row; the task is the same in all of them."""
Mode = Literal["rows", "batches"]
"""How processes share the work: the rows of every batch, or whole batches."""


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights that add up to ``total`` exactly (largest remainder)."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(number) for number in exact]
    by_remainder = sorted(range(len(exact)), key=lambda task: counts[task] - exact[task])
    for task in by_remainder[: total - sum(counts)]:
        counts[task] += 1
    return counts


class OneTaskBatches(Sampler[Batch]):
    """An endless schedule of full batches, each of one data set; every iteration yields one epoch of it.

    The rows of a data set are a stream, shuffled anew each time it has gone through and cut into batches. An epoch
    has a fixed number of batches of every data set, in an order of its own. Any batch is a function of the seed and
    its position alone, so nothing has to be replayed to resume.

    Args:
        names: of the data sets, for messages.
        sizes: rows of each data set.
        weights: relative number of batches of each.
        batch_size: rows a process and step.
        seed: of all orders.
        rank: of this process.
        world_size: number of processes.
        mode: ``rows``: all processes share one batch of ``batch_size * world_size`` rows, each gets its part.
            ``batches``: processes take whole batches in turn, so that the schedule is the same at any number of them.
        batches_per_epoch: before they are dealt to processes; None: as many as go once through all rows.

    Raises:
        UserError: a data set has fewer rows than a batch, or too small a weight to get a batch in an epoch.
    """

    def __init__(
        self,
        names: Sequence[str],
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        mode: Mode = "rows",
        batches_per_epoch: int | None = None,
    ) -> None:
        self.sizes, self.batch_size, self.seed = sizes, batch_size, seed
        rows_shared = mode == "rows"
        self.full_size = batch_size * world_size if rows_shared else batch_size
        self.first_row = batch_size * rank if rows_shared else 0
        self.first_batch, self.stride = (0, 1) if rows_shared else (rank, world_size)
        total = batches_per_epoch or max(1, sum(sizes) // self.full_size)
        total = -(-total // self.stride) * self.stride  # every process gets equally many
        self.counts = apportion(total, weights)
        for name, size, count in zip(names, sizes, self.counts, strict=True):
            if size < self.full_size:
                raise UserError(f"{name}: {size} rows are less than a batch of {self.full_size}; lower batch_size")
            if count == 0:
                raise UserError(f"{name}: gets none of the {total} batches of an epoch; raise its share or add rows")
        self.epoch = 0
        self.batch = 0
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return sum(self.counts) // self.stride

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch from the present position, which ``advance`` moves, not the iteration."""
        mine = self._epoch(self.epoch)[self.first_batch :: self.stride]
        for task, ordinal in mine[self.batch :]:
            yield self._batch(task, ordinal)

    def advance(self) -> None:
        """Count one batch as used; after the last of an epoch the position is the start of the next."""
        self.batch += 1
        if self.batch == len(self):
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Position of the next batch."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position."""
        self.epoch, self.batch = state["epoch"], state["batch"]

    def first_rows(self, batches: int) -> list[NDArray[np.int64]]:
        """Return the rows of each data set that the first batches are made of.

        Args:
            batches: of every process.
        """
        epochs, rest = divmod(batches, len(self))
        begun = Counter(task for task, _ in self._epoch(epochs)[: rest * self.stride])
        used = [(epochs * count + begun[task]) * self.full_size for task, count in enumerate(self.counts)]
        return [self._order(task, 0)[:rows] for task, rows in enumerate(used)]

    def _epoch(self, epoch: int) -> list[tuple[int, int]]:
        """(task, how many batches of this task came before it since the start) of every batch of an epoch."""
        tasks = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.random.default_rng([self.seed, epoch]).permutation(tasks)
        seen = Counter({task: epoch * count for task, count in enumerate(self.counts)})
        schedule = []
        for task in order.tolist():
            schedule.append((task, seen[task]))
            seen[task] += 1
        return schedule

    def _batch(self, task: int, ordinal: int) -> Batch:
        start, size = ordinal * self.full_size + self.first_row, self.sizes[task]
        passes, places = np.divmod(np.arange(start, start + self.batch_size), size)
        rows = np.concatenate(
            [self._order(task, int(number))[places[passes == number]] for number in np.unique(passes)]
        )
        return [(task, row) for row in rows.tolist()]

    def _order(self, task: int, number: int) -> NDArray[np.int64]:
        """The order of a data set's rows in one pass through them; that of the last one asked for is kept."""
        known, order = self._orders.get(task, (-1, None))
        if order is None or known != number:
            order = np.random.default_rng([self.seed, task, number]).permutation(self.sizes[task])
            self._orders[task] = number, order
        return order


def evaluation_batches(size: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[Batch]:
    """All rows of one data set once, in their order; processes take the batches in turn.

    Batches are of nearly equal size, so that none is too small for an in-batch loss, and there is at least one for
    every process, because metrics are gathered from all of them.
    """
    count = max(-(-size // batch_size), world_size)
    rows = np.array_split(np.arange(size), count)[rank::world_size]
    return [[(0, row) for row in batch.tolist()] for batch in rows if len(batch)]


class _Keys(Dataset[tuple[int, int]]):
    """Hands a (task, row) to the collator, which has the texts."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


class BatchLoader:
    """Batches made by worker processes, in the order of ``batches``.

    It is no ``DataLoader`` itself: Lightning would put a distributed sampler into one, while these batches are dealt to
    the processes already. The global random state is left alone.
    """

    def __init__(
        self, batches: Sampler[Batch] | list[Batch], collate: Callable[[Batch], TaskBatch], num_workers: int = 0
    ) -> None:
        self.batches = batches
        self._loader = DataLoader(
            _Keys(),
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            generator=Generator(),
        )

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[TaskBatch]:
        """Yield the batches of one epoch."""
        return iter(self._loader)


class ResumableLoader(BatchLoader):
    """A ``BatchLoader`` that knows which batch the trainer has received last, however many workers fetch ahead.

    Lightning stores ``state_dict`` in its checkpoints and loads it on resuming, also in the middle of an epoch.
    """

    batches: OneTaskBatches

    def __iter__(self) -> Iterator[TaskBatch]:
        """The rest of the epoch from the present position."""
        for batch in super().__iter__():
            self.batches.advance()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Position of the next batch."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self.batches.load_state_dict(state)


class WholeEpochLoader:
    """Hands out all batches of a loader's first epoch as one list, in every epoch the same.

    Args:
        loader: at its start.
    """

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader
        self._epoch: list[TaskBatch] = []

    def __len__(self) -> int:
        """Return 1: the one batch of an epoch."""
        return 1

    def __iter__(self) -> Iterator[list[TaskBatch]]:
        """The list; batches are made once."""
        if not self._epoch:
            self._epoch = list(self._loader)
        yield self._epoch
