"""The base class of methods that drop entries of the task vectors before any other method merges them."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from modules.merging.merge_method import Preparation, Prepared, Statistics, Stream
from modules.merging.method_wrapper import MethodWrapper


class DroppedEntries(MethodWrapper):
    """Entries of the task vectors are dropped on top of a merge method.

    Args:
        method: merges what is left of the task vectors.
    """

    @abstractmethod
    def drop(self, name: str, vectors: Tensor) -> Tensor:
        """Drop entries of the task vectors of a tensor in place.

        Args:
            name: of the tensor.
            vectors: ``[N, *shape]``.

        Returns:
            `vectors`.
        """

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return the preparation of `method`, on what is left of the task vectors."""

        def left() -> Iterator[tuple[str, Tensor]]:
            return ((name, self.drop(name, vectors.clone())) for name, vectors in stream())

        prepare = self.method.preparation(left, statistics)

        def drop_and_prepare(name: str, vectors: Tensor) -> Prepared:
            return prepare(name, self.drop(name, vectors))

        return drop_and_prepare


def uniform_draws(seed: int, name: str, vectors: Tensor) -> Iterator[Tensor]:
    """Yield a random number in [0, 1) for every entry of each task vector of a tensor.

    The numbers depend on the seed, the tensor's name and the expert's place only: the same on every machine and in
    every route.

    Args:
        seed: of all draws.
        name: of the tensor.
        vectors: ``[N, *shape]``.

    Yields:
        ``[*shape]`` float32 on the CPU, expert by expert.
    """
    for i, vector in enumerate(vectors):
        digest = hashlib.sha256(f"{seed}\0{name}\0{i}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        yield torch.rand(vector.shape, generator=generator)
