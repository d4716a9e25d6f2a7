"""The task vectors of experts on disk, one tensor at a time.

Shapes: N experts.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from modules.checkpoints.checkpoint_io import CHUNK, TensorFile
from modules.checkpoints.checkpoint_layout import Layout, Weight, match_layout, read_layout
from modules.checkpoints.lora import Adapter, is_adapter

T = TypeVar("T")


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

    def read(self, name: str, base: Callable[[], Tensor], out: Tensor) -> None:
        """Write the difference of the expert's tensor and the base's to `out`."""
        weight = self.weights[name]
        weight.file.read(weight.key, out).sub_(base())


class Loaded(NamedTuple):
    """A tensor of theta_0 and its task vectors, valid until the next is loaded.

    Args:
        name: canonical.
        base: float32.
        vectors: ``[N, *shape]``, float32.
    """

    name: str
    base: Tensor
    vectors: Tensor


class TaskVectorFiles:
    """All task vectors, read tensor by tensor in the order of the base's files.

    Threads read, hash and subtract ahead of the caller. Memory is a buffer for the largest tensor of the base and N for
    its task vectors: the next tensor is read while the caller has one wherever both fit into it.

    Args:
        base: the tensors of theta_0.
        experts: name to expert.
    """

    def __init__(self, base: Layout, experts: Mapping[str, ExpertFiles]) -> None:
        self.base = base
        self.experts = experts
        whole = [expert.weights for expert in experts.values() if isinstance(expert, WholeModel)]
        names = [name for name in base.weights if all(name in weights for weights in whole)]
        self.names = sorted(names, key=lambda name: base.place(base.weights[name]))
        """Canonical names of the tensors that all experts have, in the order of the base's files."""
        largest = max((base.weights[name].info.size for name in names), default=0)
        self._buffer = torch.empty((1 + len(experts)) * largest)

    def close(self) -> None:
        """Close all files."""
        for file in [*self.base.files, *(file for expert in self.experts.values() for file in expert.files)]:
            file.close()

    def others(self) -> list[Weight]:
        """Return the tensors of the base that are not merged, in the order of its files."""
        merged = {self.base.weights[name] for name in self.names}
        return [weight for weight in self.base.entries() if weight not in merged]

    def each(self, label: str) -> Iterator[Loaded]:
        """Yield every tensor that all experts have, with a progress bar of this label."""
        threads = torch.get_num_threads()
        # The threads share the cores, the caller's with them: each does its tensor operations by itself.
        pool = ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
        try:
            ahead, front = None, True
            for name, following in zip(progress(self.names, label), [*self.names[1:], None], strict=True):
                reads = ahead or self._start(pool, name, front)
                front = not front
                fits = following is not None and self._entries(name) + self._entries(following) <= len(self._buffer)
                ahead = self._start(pool, following, front) if following is not None and fits else None
                loaded = reads()
                torch.set_num_threads(1 if ahead else threads)
                yield loaded
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # which threads that start from here on take as their number, too

    def _entries(self, name: str) -> int:
        return (1 + len(self.experts)) * self.base.weights[name].info.size

    def _start(self, pool: Executor, name: str, front: bool) -> Callable[[], Loaded]:
        """Start reading into the beginning or the end of the buffer, and return a function that waits for the end."""
        weight, entries = self.base.weights[name], self._entries(name)
        buffer = self._buffer[:entries] if front else self._buffer[len(self._buffer) - entries :]
        base, *vectors = tensors = buffer.view(1 + len(self.experts), *weight.info.shape)
        read_base = partial(weight.file.read, weight.key, base)
        if entries < CHUNK:  # a task for each file would cost more than it reads

            def read_all() -> None:
                read_base()
                for expert, vector in zip(self.experts.values(), vectors, strict=True):
                    expert.read(name, lambda: base, vector)

            tasks: list[Future[Any]] = [pool.submit(read_all)]
        else:
            first = pool.submit(read_base)
            pairs = zip(self.experts.values(), vectors, strict=True)
            tasks = [first, *(pool.submit(expert.read, name, first.result, vector) for expert, vector in pairs)]

        def wait() -> Loaded:
            for task in tasks:
                task.result()
            return Loaded(name, base, tensors[1:])

        return wait

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and task vectors of the tensors that at least one expert changed."""
        for name, _, vectors in self.each("reading task vectors"):
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
