"""Expert, probe and validation rows of every data set, with no example in two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from datamodules.row_split import split_rows
from datamodules.sources.data_source import DataSource
from datamodules.sources.task_loading import load_task
from datamodules.task_data import TaskData
from datamodules.text_ids import TextIds
from modules.errors import UserError
from modules.losses.task_batch import LossConfig

Sources = Mapping[str, DataSource | str] | Sequence[DataSource | str]


@dataclass(frozen=True)
class SplitTask:
    """A data set in three disjoint parts.

    Args:
        name: of the data set.
        expert: the rows that experts and joint models train on.
        probe: the rows a position is learned on; its first k rows are the probe of size k.
        validation: the rows that the choice between models is made on.
        share: relative number of batches in joint training; None: in proportion to the rows.
        left_out: reason to the number of rows that were read and are in no part for it.
        requested: probe and validation rows asked for. Fewer are held out if these are more than a third of the rows,
            or if its groups are too large.
        notes: what was taken how, or reduced, one line each.
    """

    name: str
    expert: TaskData
    probe: TaskData
    validation: TaskData
    share: float | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    requested: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)

    @property
    def read(self) -> int:
        """Number of rows of the source."""
        return len(self.expert) + len(self.probe) + len(self.validation) + sum(self.left_out.values())

    def with_loss(self, loss: LossConfig | None) -> "SplitTask":
        """Return the same rows, trained and validated with this loss, if there is one; see `TaskData.with_loss`."""
        if loss is None:
            return self
        expert, probe, validation = (part.with_loss(loss) for part in (self.expert, self.probe, self.validation))
        return replace(self, expert=expert, probe=probe, validation=validation)


def load_tasks(
    sources: Sources,
    *,
    probe_size: int | dict[str, int],
    validation_size: int | dict[str, int],
    loss: LossConfig | None = None,
    seed: int = 0,
    decontaminate: Mapping[str, TextIds] | None = None,
) -> dict[str, SplitTask]:
    """Read data sets and split each in three; nothing held out of one is an expert row of another.

    The groups of a data set (see `RowGroups`) are walked in the order of ``sha256(seed, group)``. The first give the
    validation rows, the next the probe rows, few rows each (see `held_out_order`), and their other rows are in no part.
    The other groups are expert rows. Of every part, rows are left out that are examples of what another data set holds
    out (see `HeldOut`). So a smaller probe is the beginning of a larger one, for the same seed and validation part.
    Rows that have a text of an evaluation are in no part.

    Args:
        sources: by name, or a list whose entries have different names.
        probe_size: rows of each data set, one number or one a name.
        validation_size: the same for the validation part.
        loss: for the sources that have none; None: the one that fits the columns.
        seed: of the order of the groups.
        decontaminate: MTEB task to what `evaluated_ids` gives of its texts; None: no row is left out for them.

    Raises:
        UserError: two data sets have one name, a size names no data set, no row can be held out of one that rows are
            to be held out of, all texts have one label, or whatever ``load_task`` finds.
    """
    named = named_sources(sources)
    probe_sizes = _size_each(probe_size, list(named), "probe_size")
    validation_sizes = _size_each(validation_size, list(named), "validation_size")
    data = _read(named, loss or LossConfig())
    sizes = {name: (probe_sizes[name], validation_sizes[name]) for name in named}
    rows = split_rows(data, sizes, seed, decontaminate or {})
    return {
        name: SplitTask(
            name,
            task.subset(rows[name].expert),
            task.subset(rows[name].probe),
            task.subset(rows[name].validation),
            named[name].share,
            task.left_out | rows[name].left_out,
            sizes[name],
            [*task.notes, *rows[name].notes],
        )
        for name, task in data.items()
    }


def named_sources(sources: Sources) -> dict[str, DataSource]:
    """The sources by name; the keys of a mapping win over the sources' own names."""
    if isinstance(sources, Mapping):
        pairs = [(name, _source(source)) for name, source in sources.items()]
    else:
        pairs = [(source.name, source) for source in map(_source, sources)]
    if not pairs:
        raise UserError("no data sets are given; list at least one source")
    named: dict[str, DataSource] = {}
    for name, source in pairs:
        if name in named:
            raise UserError(f"two data sets are called {name!r}; give one of them a 'name' of its own")
        named[name] = replace(source, name=name)
    return named


def _source(source: DataSource | str) -> DataSource:
    return DataSource(source) if isinstance(source, str) else source


def _read(named: Mapping[str, DataSource], loss: LossConfig) -> dict[str, TaskData]:
    """The rows of every source; those that differ in name, share and loss only are read once."""
    read: dict[str, TaskData] = {}
    data = {}
    for name, source in named.items():
        key = repr(replace(source, name="any", share=None, loss=None))
        if key not in read:
            read[key] = load_task(source, loss)
        data[name] = replace(read[key], name=name).with_loss(source.loss or loss)
        _refuse_one_label(data[name])
    return data


def _refuse_one_label(task: TaskData) -> None:
    """Refuse labelled texts that are all of one label.

    Raises:
        UserError: they are.
    """
    if task.kind == "labelled" and task.target is not None and len(np.unique(task.target)) < 2:
        raise UserError(f"{task.name}: all texts have one label, so there is nothing to tell apart; give two or more")


def _size_each(size: int | dict[str, int], names: list[str], key: str) -> dict[str, int]:
    sizes = dict.fromkeys(names, size) if isinstance(size, int) else size
    if set(sizes) != set(names) or min(sizes.values()) < 0:
        raise UserError(f"{key} is {size}; give one number of 0 or more, or one for each of {', '.join(names)}")
    return sizes
