"""The task vectors of experts on disk, one tensor at a time.

Shapes: N experts.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from modules.checkpoints.checkpoint_io import CHUNK, TensorFile
from modules.checkpoints.checkpoint_layout import Layout, Weight, match_layout, read_layout
from modules.checkpoints.lora import Adapter, is_adapter

T = TypeVar("T")

PART = 1 << 20
"""Entries of a part: as many as a Gram matrix is accumulated over at a time, so that parts give the same bits."""


class ExpertFiles(Protocol):
    """The interface of an expert on disk: a whole model, or an adapter (`modules.checkpoints.lora.Adapter`)."""

    @property
    def files(self) -> list[TensorFile]:
        """The expert's files of weights."""

    def read(self, name: str, base: Callable[[], Tensor], out: Tensor) -> None:
        """Write the task vector of the tensor `name`, which `base` gives as it is in theta_0, to `out`."""


class WholeModel:
    """An expert with all weights.

    Args:
        layout: its tensors.
    """

    def __init__(self, layout: Layout) -> None:
        self.files = layout.files
        self.weights = layout.weights

    def read(self, name: str, base: Callable[[], Tensor], out: Tensor, start: int = 0) -> None:
        """Write the difference of the expert's tensor and the base's, from the entry `start` on, to `out`."""
        weight = self.weights[name]
        weight.file.read(weight.key, out, start).sub_(base())


class Loaded(NamedTuple):
    """A tensor of theta_0 and its task vectors, or a part of them, valid until the next is loaded.

    Args:
        name: canonical.
        base: float32, of the tensor's shape; or flat, where it is a part.
        vectors: ``[N, *base.shape]``, float32.
        start: the tensor's entry that a part begins with.
    """

    name: str
    base: Tensor
    vectors: Tensor
    start: int


class Item(NamedTuple):
    """The entries from `start` to `stop` of a tensor; `whole` where these are all."""

    name: str
    start: int
    stop: int
    whole: bool


class Reading(NamedTuple):
    """A tensor, or a part, that threads read: its tasks, the base's first, and what they read into."""

    tasks: list[Future[Any]]
    loaded: Loaded

    def wait(self) -> Loaded:
        """Wait until all is read."""
        for task in self.tasks:
            task.result()
        return self.loaded


class TaskVectorFiles:
    """All task vectors, read tensor by tensor in the order of the base's files.

    Threads read, hash and subtract ahead of the caller. Memory is a buffer for the largest tensor of the base and N for
    its task vectors: the next tensor is read while the caller has one wherever both fit into it. Where a caller takes
    parts, it is a buffer for two of these.

    Args:
        base: the tensors of theta_0.
        experts: name to expert.
    """

    def __init__(self, base: Layout, experts: Mapping[str, ExpertFiles]) -> None:
        self.base = base
        self.experts = experts
        self._whole = {name: expert for name, expert in experts.items() if isinstance(expert, WholeModel)}
        names = [name for name in base.weights if all(name in expert.weights for expert in self._whole.values())]
        self.names = sorted(names, key=lambda name: base.place(base.weights[name]))
        """Canonical names of the tensors that all experts have, in the order of the base's files."""
        self._buffer = torch.empty(0)

    def close(self) -> None:
        """Close all files."""
        for file in [*self.base.files, *(file for expert in self.experts.values() for file in expert.files)]:
            file.close()

    def others(self) -> list[Weight]:
        """Return the tensors of the base that are not merged, in the order of its files."""
        merged = {self.base.weights[name] for name in self.names}
        return [weight for weight in self.base.entries() if weight not in merged]

    def each(self, label: str, parts: bool = False) -> Iterator[Loaded]:
        """Yield every tensor that all experts have, with a progress bar of this label.

        Args:
            label: of the bar.
            parts: give tensors of more than `PART` entries in parts, in their order. An adapter's products are made of
                whole matrices: with an adapter all tensors are whole.
        """
        items = self._items(parts and len(self._whole) == len(self.experts))
        self._grow_buffer(items)
        threads = torch.get_num_threads()
        # The threads share the cores, the caller's with them: each does its tensor operations by itself.
        pool = ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
        try:
            ahead, front = None, True
            for item, following in zip(progress(items, label), [*items[1:], None], strict=True):
                reading = ahead or self._start(pool, item, front, None)
                front = not front
                fits = following is not None and self._entries(item) + self._entries(following) <= len(self._buffer)
                ahead = self._start(pool, following, front, reading) if following is not None and fits else None
                loaded = reading.wait()
                torch.set_num_threads(1 if ahead else threads)
                yield loaded
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # which threads that start from here on take as their number, too

    def _items(self, parts: bool) -> list[Item]:
        items = []
        for name in self.names:
            size = self.base.weights[name].info.size
            cuts = [*range(0, size, PART), size] if parts and size > PART else [0, size]
            items += [Item(name, start, stop, len(cuts) == 2) for start, stop in pairwise(cuts)]
        return items

    def _grow_buffer(self, items: list[Item]) -> None:
        """Make room for the largest item, and for two items where a tensor has parts."""
        wanted = max((self._entries(item) * (1 if item.whole else 2) for item in items), default=0)
        if wanted > len(self._buffer):
            self._buffer = torch.empty(wanted)

    def _entries(self, item: Item) -> int:
        return (1 + len(self.experts)) * (item.stop - item.start)

    def _start(self, pool: Executor, item: Item, front: bool, before: Reading | None) -> Reading:
        """Start reading into the beginning or the end of the buffer."""
        entries, shape = self._entries(item), self.base.weights[item.name].info.shape
        buffer = self._buffer[:entries] if front else self._buffer[len(self._buffer) - entries :]
        tensors = buffer.view(1 + len(self.experts), *(shape if item.whole else [item.stop - item.start]))
        loaded = Loaded(item.name, tensors[0], tensors[1:], item.start)
        if not item.whole:
            return Reading(self._read_part(pool, loaded, before.tasks if before and item.start else []), loaded)
        if entries < CHUNK:  # a task for each file would cost more than it reads
            return Reading([pool.submit(self._read_all, loaded)], loaded)
        first = pool.submit(self._read_base, loaded)
        pairs = zip(self.experts.values(), loaded.vectors, strict=True)
        return Reading([first, *(pool.submit(e.read, item.name, first.result, vector) for e, vector in pairs)], loaded)

    def _read_part(self, pool: Executor, loaded: Loaded, before: list[Future[Any]]) -> list[Future[Any]]:
        """Start reading a part from every file, each after the part before it, as a hash takes them."""

        def after(i: int, read: Callable[..., Any], *arguments: Any) -> Any:
            if before:
                before[i].result()
            return read(*arguments)

        first = pool.submit(after, 0, self._read_base, loaded)
        experts = enumerate(zip(self._whole.values(), loaded.vectors, strict=True), start=1)
        others = (
            pool.submit(after, i, expert.read, loaded.name, first.result, vector, loaded.start)
            for i, (expert, vector) in experts
        )
        return [first, *others]

    def _read_base(self, loaded: Loaded) -> Tensor:
        weight = self.base.weights[loaded.name]
        return weight.file.read(weight.key, loaded.base, loaded.start)

    def _read_all(self, loaded: Loaded) -> None:
        self._read_base(loaded)
        for expert, vector in zip(self.experts.values(), loaded.vectors, strict=True):
            expert.read(loaded.name, lambda: loaded.base, vector)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and task vectors of the tensors that at least one expert changed."""
        for name, _, vectors, _ in self.each("reading task vectors"):
            if is_changed(vectors):
                yield name, vectors


def is_changed(vectors: Tensor) -> bool:
    """Return whether a task vector of a tensor has an entry that is not 0; most often the first entries tell."""
    return any(bool(part.any()) for part in vectors.view(-1).split(CHUNK))


def open_models(base: Path, experts: Mapping[str, Path], say: Callable[[str], None]) -> TaskVectorFiles:
    """Open a base and its experts.

    Args:
        base: folder of theta_0.
        experts: name to the folder of a whole model or of an adapter.
        say: prints a line; harmless differences of the weights.

    Raises:
        UserError: weights are missing, broken, or do not fit the base's.
    """
    layout = read_layout(base)
    opened: dict[str, ExpertFiles] = {}
    for name, folder in experts.items():
        who = f"expert '{name}' ({folder})"
        if is_adapter(folder):
            opened[name] = Adapter(folder, layout.weights, who)
            continue
        theirs = read_layout(folder)
        for line in match_layout(layout, theirs, who):
            say(line)
        opened[name] = WholeModel(theirs)
    for key in layout.tied:
        say(f"{key} of the base is tied to another weight: left out")
    return TaskVectorFiles(layout, opened)


def progress(items: list[T], label: str) -> Iterable[T]:
    """Show a progress bar over tensors, where there is a terminal."""
    return tqdm(items, desc=label, unit="tensor", disable=None, leave=False)
