"""Expert, probe and validation rows of every data set, with no text in two of them."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from datamodules.task_data import TaskData
from datamodules.text_sources import DataSource, load_task
from modules.errors import UserError
from modules.task_batch import LossConfig

Sources = Mapping[str, DataSource | str] | Sequence[DataSource | str]


@dataclass(frozen=True)
class SplitTask:
    """One data set in three disjoint parts.

    Args:
        name: of the data set.
        expert: the rows that experts and joint models train on.
        probe: the rows a position is learned on; its first k rows are the probe of size k.
        validation: the rows that the choice between models is made on.
        share: relative number of batches in joint training; None: in proportion to the rows.
        dropped: rows in no part, because they share a text or a group with a held-out row.
        requested: probe and validation rows asked for. Fewer are held out if these are more than a third of the rows.
    """

    name: str
    expert: TaskData
    probe: TaskData
    validation: TaskData
    share: float | None = None
    dropped: int = 0
    requested: tuple[int, int] = (0, 0)

    def with_loss(self, loss: LossConfig | None) -> "SplitTask":
        """The same rows, to be trained and validated with this loss, if there is one; see `TaskData.with_loss`."""
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
) -> dict[str, SplitTask]:
    """Read data sets and split each in three; nothing held out of one is an expert row of another.

    The groups of a data set are walked in the order of ``sha256(seed, group)``. Whole groups fill the validation part,
    then the probe part, each cut at its size (the rest of a cut group is dropped); the others are expert rows, but for
    those that share a text, up to case and white space, with a held-out row of any data set. So a smaller probe is the
    beginning of a larger one, for the same seed and validation part.

    Args:
        sources: by name, or a list whose entries have different names.
        probe_size: rows of each data set, one number or one a name.
        validation_size: the same for the validation part.
        loss: for the sources that have none; None: the one that fits the columns.
        seed: of the order of the groups.

    Raises:
        UserError: two data sets have one name, a size names no data set, or whatever ``load_task`` finds.
    """
    named = named_sources(sources)
    probe_sizes = _size_each(probe_size, list(named), "probe_size")
    validation_sizes = _size_each(validation_size, list(named), "validation_size")
    data = {name: load_task(source, loss) for name, source in named.items()}
    sizes = {name: _at_most_a_third(len(data[name]), probe_sizes[name], validation_sizes[name]) for name in named}

    cuts = {name: _Cut(task, seed) for name, task in data.items()}
    held_out: set[str] = set()
    validation = {name: cut.take(sizes[name][1], held_out=set()) for name, cut in cuts.items()}
    held_out.update(text for name, rows in validation.items() for text in _texts(data[name], rows))
    probe = {name: cut.take(sizes[name][0], held_out) for name, cut in cuts.items()}
    held_out.update(text for name, rows in probe.items() for text in _texts(data[name], rows))
    expert = {name: cut.take(len(data[name]), held_out) for name, cut in cuts.items()}

    return {
        name: SplitTask(
            name,
            data[name].subset(sorted(expert[name])),
            data[name].subset(probe[name]),
            data[name].subset(validation[name]),
            named[name].share,
            len(data[name]) - len(expert[name]) - len(probe[name]) - len(validation[name]),
            (probe_sizes[name], validation_sizes[name]),
        )
        for name in named
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


class _Cut:
    """Takes rows of one data set off its ordered groups."""

    def __init__(self, data: TaskData, seed: int) -> None:
        self.data = data
        members: dict[str, list[int]] = defaultdict(list)
        for row, group in enumerate(data.groups or data.texts[0]):
            members[group if data.groups else _normalised(group)].append(row)
        self.groups = deque(members[group] for group in sorted(members, key=lambda group: _order(seed, group)))

    def take(self, size: int, held_out: set[str]) -> list[int]:
        """The next ``size`` rows that share no text with ``held_out``; the rest of the last group is lost."""
        taken: list[int] = []
        while len(taken) < size and self.groups:
            group = self.groups.popleft()
            taken += [row for row in group if held_out.isdisjoint(_texts(self.data, [row]))]
        return taken[:size]


def _source(source: DataSource | str) -> DataSource:
    return DataSource(source) if isinstance(source, str) else source


def _size_each(size: int | dict[str, int], names: list[str], key: str) -> dict[str, int]:
    sizes = dict.fromkeys(names, size) if isinstance(size, int) else size
    if set(sizes) != set(names) or min(sizes.values()) < 0:
        raise UserError(f"{key} is {size}; give one number of 0 or more, or one for each of {', '.join(names)}")
    return sizes


def _at_most_a_third(rows: int, probe: int, validation: int) -> tuple[int, int]:
    """Both sizes, scaled down together if they are more than a third of the rows."""
    allowed, wanted = rows // 3, probe + validation
    return (probe, validation) if wanted <= allowed else (probe * allowed // wanted, validation * allowed // wanted)


def _order(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()


def _texts(data: TaskData, rows: Sequence[int]) -> Iterator[str]:
    return (_normalised(column[row]) for column in data.texts for row in rows)


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()
