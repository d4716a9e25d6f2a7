"""The task vectors of experts on disk, one tensor at a time.

Shapes: N experts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from modules.checkpoints.checkpoint_io import TensorFile
from modules.checkpoints.checkpoint_layout import Layout, Weight, match_layout, read_layout
from modules.checkpoints.lora import Adapter, is_adapter

T = TypeVar("T")


class ExpertFiles(Protocol):
    """The interface of an expert on disk: a whole model, or an adapter (`modules.checkpoints.lora.Adapter`)."""

    @property
    def files(self) -> list[TensorFile]:
        """The expert's files of weights."""

    def read(self, name: str, base: Tensor, out: Tensor) -> None:
        """Write the task vector of the tensor `name`, which is `base` in theta_0, to `out`."""


class WholeModel:
    """An expert with all weights.

    Args:
        layout: its tensors.
    """

    def __init__(self, layout: Layout) -> None:
        self.files = layout.files
        self.weights = layout.weights

    def read(self, name: str, base: Tensor, out: Tensor) -> None:
        """Write the difference of the expert's tensor and the base's to `out`."""
        weight = self.weights[name]
        weight.file.read(weight.key, out).sub_(base)


class TaskVectorFiles:
    """All task vectors, read tensor by tensor in the order of the base's files.

    Memory is a buffer for the largest tensor of the base and N for its task vectors, used again for every tensor.

    Args:
        base: the tensors of theta_0.
        experts: name to expert.
    """

    def __init__(self, base: Layout, experts: Mapping[str, ExpertFiles]) -> None:
        self.base = base
        self.experts = experts
        whole = [expert.weights for expert in experts.values() if isinstance(expert, WholeModel)]
        names = [name for name in base.weights if all(name in weights for weights in whole)]
        self.names = sorted(names, key=lambda name: self._place(base.weights[name]))
        """Canonical names of the tensors that all experts have, in the order of the base's files."""
        largest = max((weight.info.size for weight in (base.weights | base.kept).values()), default=0)
        self._base = torch.empty(largest)
        self._vectors = torch.empty(len(experts) * largest)

    def close(self) -> None:
        """Close all files."""
        for file in [*self.base.files, *(file for expert in self.experts.values() for file in expert.files)]:
            file.close()

    def entries(self) -> list[tuple[str, Weight]]:
        """Return canonical name and place of all tensors of the base, in the order of its files."""
        return sorted((self.base.weights | self.base.kept).items(), key=lambda entry: self._place(entry[1]))

    def _place(self, weight: Weight) -> tuple[int, int]:
        return self.base.files.index(weight.file), weight.info.start

    def load_base(self, weight: Weight) -> Tensor:
        """Return a tensor of theta_0 in float32, valid until the next is loaded; as it is if it has no float dtype."""
        if not weight.info.dtype.is_floating_point:
            return weight.file.read(weight.key)
        return weight.file.read(weight.key, self._base[: weight.info.size].view(weight.info.shape))

    def load(self, name: str) -> tuple[Tensor, Tensor]:
        """Return a tensor of theta_0 and its task vectors ``[N, *shape]``, float32, valid until the next is loaded."""
        base = self.load_base(self.base.weights[name])
        vectors = self._vectors[: len(self.experts) * base.numel()].view(len(self.experts), *base.shape)
        for expert, vector in zip(self.experts.values(), vectors, strict=True):
            expert.read(name, base, vector)
        return base, vectors

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and task vectors of the tensors that at least one expert changed."""
        for name in progress(self.names, "reading task vectors"):
            _, vectors = self.load(name)
            if vectors.any():
                yield name, vectors


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
