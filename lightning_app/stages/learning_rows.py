"""The rows that a merge of given models is learned on, chosen on, and shown on."""

from dataclasses import dataclass, replace

import numpy as np

from datamodules import SplitTask, TaskData, load_tasks, named_sources
from datamodules.splits import Sources
from lightning_app.stages.probe_rows import ProbeRows
from modules import UserError

PROBE = 1024
"""Rows of all data sets together that a position is learned on, at most."""

VALIDATION = 256
"""Rows of all data sets together that the best position is chosen on, at most."""

HELD_OUT = 1024
"""Rows of all data sets together that the result is shown on, at most."""

BATCH_SIZE = 32
FEWEST = 8
"""Rows of a data set to learn on, and to show the result on, at least."""


@dataclass(frozen=True)
class LearningRows:
    """Data sets in three parts; no model was trained here, so that the expert rows are free to show the result on.

    Args:
        tasks: the data sets.
        seed: of the splits, and of the choice of the rows that are shown.
    """

    tasks: tuple[SplitTask, ...]
    seed: int

    @classmethod
    def read(cls, sources: Sources, seed: int) -> "LearningRows":
        """Read and split data sets, each with an equal part in the objective.

        Args:
            sources: by name, or a list whose entries have different names.
            seed: of the splits.

        Raises:
            UserError: a source cannot be read, or has too few rows.
        """
        named = named_sources(sources)
        probe, validation = PROBE // len(named), VALIDATION // len(named)
        tasks = load_tasks(named, probe_size=probe, validation_size=validation, seed=seed)
        for task in tasks.values():
            _refuse_few(task)
        return cls(tuple(tasks.values()), seed)

    @property
    def batch_size(self) -> int:
        """Rows per batch: as many as the smallest data set has to learn on, up to `BATCH_SIZE`."""
        return min(BATCH_SIZE, *(len(task.probe) for task in self.tasks))

    def probe(self) -> ProbeRows:
        """Return the rows to learn on and to choose on."""
        return self._rows(self.tasks, VALIDATION)

    def held_out(self) -> ProbeRows:
        """Return the rows that nothing is learned or chosen on, as validation rows."""
        return self._rows(tuple(replace(task, validation=self.shown(task)) for task in self.tasks), HELD_OUT)

    def shown(self, task: SplitTask) -> TaskData:
        """Return the rows of a data set that the result is shown on, drawn at random: a file may be sorted."""
        drawn = np.random.default_rng(self.seed).permutation(len(task.expert))
        return task.expert.subset(drawn[: HELD_OUT // len(self.tasks)])

    def _rows(self, tasks: tuple[SplitTask, ...], validation_size: int) -> ProbeRows:
        arguments = {
            "size": PROBE,
            "validation_size": validation_size,
            "batch_size": self.batch_size,
            "max_length": None,
            "num_workers": 0,
            "seed": self.seed,
            "reserve": None,
            "task_weights": {task.name: 1 / len(tasks) for task in tasks},
        }
        return ProbeRows(tasks, arguments)


def _refuse_few(task: SplitTask) -> None:
    """Refuse a data set that is too small to be split in three.

    Raises:
        UserError: it is.
    """
    if len(task.probe) < FEWEST or len(task.validation) < 2 or len(task.expert) < FEWEST:
        raise UserError(
            f"{task.name} has {task.read} rows: {len(task.probe)} to learn on, {len(task.validation)} to choose on, "
            f"{len(task.expert)} held out; at least {FEWEST}, 2 and {FEWEST} are needed, so give it more rows"
        )
