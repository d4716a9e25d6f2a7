"""TIES: trim, elect a sign, average the entries that agree."""

import torch
from torch import Tensor

from modules.merging.magnitudes import CHUNK, global_thresholds, tensor_thresholds
from modules.merging.merge_method import (
    MergeMethod,
    Preparation,
    Prepared,
    Statistics,
    Stream,
    check_fraction,
    normalised,
    register,
)


@register
class Ties(MergeMethod):
    """Entry by entry, ``V`` is the ``a``-weighted mean of the trimmed task vectors that have the elected sign.

    Yadav et al. 2023, arXiv 2306.01708: every task vector keeps its largest entries by magnitude; the sign of an entry
    is that of the sum over the experts; entries of the other sign do not take part. The election does not look at
    ``a``, so the merged weights are a smooth function of it.

    Args:
        density: fraction of the entries that are kept.
        per_tensor: trim every tensor to this fraction, instead of all tensors together.

    Raises:
        UserError: the density is no fraction in (0, 1].

    Example:
        >>> vectors = torch.tensor([[3.0, 1.0, -2.0, 0.0], [0.0, 4.0, 3.0, 1.0]])
        >>> prepare = Ties(density=0.5).preparation(lambda: iter([("weight", vectors)]))
        >>> prepare("weight", vectors).importance
        tensor([[1., 0., 0., 0.],
                [0., 1., 1., 0.]])
    """

    name = "ties"
    formula = "trim to the largest entries, elect a sign, average the entries that agree"
    reference = "arXiv 2306.01708"

    def __init__(self, density: float = 0.2, per_tensor: bool = False) -> None:
        check_fraction(density, "density of Ties")
        self.density = density
        self.per_tensor = per_tensor

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return ``a / sum(a)``: ``[..., N]``."""
        return normalised(a)

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return a preparation that trims, and gives an entry the importance 1 if it has the elected sign, else 0."""
        if self.density == 1:
            return lambda name, vectors: Prepared(vectors, has_elected_sign(vectors))
        thresholds = None if self.per_tensor else global_thresholds(stream, self.density)

        def prepare(name: str, vectors: Tensor) -> Prepared:
            limits = tensor_thresholds(vectors, self.density) if thresholds is None else thresholds
            for vector, limit in zip(vectors, limits, strict=True):
                for part in vector.view(-1).split(CHUNK):
                    part.masked_fill_(part.abs() < limit, 0.0)
            return Prepared(vectors, has_elected_sign(vectors))

        return prepare


def has_elected_sign(vectors: Tensor) -> Tensor:
    """Return 1 where an entry has the sign of the sum over the experts, else 0: ``[N, *shape]``."""
    agreeing = torch.empty_like(vectors, memory_format=torch.contiguous_format)
    for part, marks in zip(
        vectors.flatten(1).split(CHUNK, 1), agreeing.view(len(vectors), -1).split(CHUNK, 1), strict=True
    ):
        marks.copy_(part * torch.where(part.sum(0) >= 0, 1.0, -1.0) > 0)
    return agreeing
