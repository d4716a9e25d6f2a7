"""DARE: drop entries of the task vectors at random and rescale the others, on top of any method."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from modules.merging.merge_method import MergeMethod, Preparation, Prepared, Statistics, Stream, check_fraction
from modules.merging.slerp import Slerp


class Dare(MergeMethod):
    """Every entry of every task vector is kept with probability ``density`` and divided by it, else zero.

    Yu et al. 2023, arXiv 2311.03099. Entries are drawn one by one, so it makes no difference whether they are drawn for
    all tensors together or for each. The draw depends on the seed, the tensor's name and the expert's place only: the
    same on every machine and in every route.

    Args:
        method: merges the task vectors with their remaining entries; SLERP by default.
        density: probability with which an entry is kept.
        seed: of the draw.

    Raises:
        UserError: the density is no fraction in (0, 1].

    Example:
        >>> method = Dare(Ties(density=0.5), density=0.1)
        >>> merge = MergeModule("experts/base", {"sts": "experts/sts", "faq": "experts/faq"}, method)
    """

    def __init__(self, method: MergeMethod | None = None, density: float = 0.5, seed: int = 0) -> None:
        check_fraction(density, "density of Dare")
        self.method = method or Slerp()
        self.density = density
        self.seed = seed
        self.has_scale = self.method.has_scale
        self.uses_angles = self.method.uses_angles
        self.statistics, self.rows = self.method.statistics, self.method.rows
        self.order = self.method.order

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the coefficients of `method`: ``[..., N]``."""
        return self.method.positive_coefficients(a, gram)

    def initial(self, experts: int) -> Tensor:
        """Return the start of `method`: ``[N]``."""
        return self.method.initial(experts)

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return the preparation of `method`, on task vectors whose entries are dropped and rescaled."""

        def dropped() -> Iterator[tuple[str, Tensor]]:
            return ((name, self._drop(name, vectors.clone())) for name, vectors in stream())

        prepare = self.method.preparation(dropped, statistics)

        def drop_and_prepare(name: str, vectors: Tensor) -> Prepared:
            return prepare(name, self._drop(name, vectors))

        return drop_and_prepare

    def _drop(self, name: str, vectors: Tensor) -> Tensor:
        for i, vector in enumerate(vectors):
            digest = hashlib.sha256(f"{self.seed}\0{name}\0{i}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            kept = torch.rand(vector.shape, generator=generator) < self.density
            vector.mul_(kept.to(vector) / self.density)
        return vectors
