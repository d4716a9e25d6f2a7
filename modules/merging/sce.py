"""SCE: select the entries that differ most, weigh the experts by them, erase the entries of the minority's sign."""

import torch
from torch import Tensor

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
from modules.merging.ties import has_elected_sign


@register
class Sce(MergeMethod):
    """Entry by entry, ``V`` is the mean of the selected entries that have the elected sign, weighted by their energy.

    Wan et al. 2024, arXiv 2408.07990, tensor by tensor. *Select*: the entries with the largest variance over the
    experts stay, all of them where nothing differs. *Calculate*: the weight of an expert is the sum of the squares of
    its selected entries. *Erase*: entries whose sign is not that of the sum over the experts do not take part. ``a``
    multiplies the weights, and equal ``a`` give the formula.

    Args:
        density: fraction of the entries of a tensor that are selected, of those that differ at all.

    Raises:
        UserError: the density is no fraction in (0, 1].

    Example:
        >>> vectors = torch.tensor([[3.0, 1.0], [1.0, 1.0]])
        >>> Sce(density=0.5).preparation(lambda: iter([]))("weight", vectors)
        Prepared(vectors=tensor([[3., 0.],
                [1., 0.]]), importance=tensor([[0.9000, 0.0000],
                [0.1000, 0.0000]]))
    """

    name = "sce"
    formula = (
        "select the entries of largest variance, weigh experts by their squares, average what has the elected sign"
    )
    reference = "arXiv 2408.07990"

    def __init__(self, density: float = 0.1) -> None:
        check_fraction(density, "density of Sce")
        self.density = density

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return ``a / sum(a)``: ``[..., N]``."""
        return normalised(a)

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return a preparation that selects, and gives the entries with the elected sign their expert's energy."""

        def prepare(name: str, vectors: Tensor) -> Prepared:
            vectors.masked_fill_(~self._selected(vectors), 0.0)
            weights = _energies(vectors).view(-1, *[1] * (vectors.ndim - 1))
            return Prepared(vectors, has_elected_sign(vectors) * weights)

        return prepare

    def _selected(self, vectors: Tensor) -> Tensor:
        """Return where the variance is among the largest: ``[*shape]`` bool; at a tie, all that tie."""
        variance = (vectors - vectors[0]).var(0, correction=0)  # exactly 0 where all experts agree
        kept = max(1, int(self.density * int(variance.count_nonzero())))
        return variance >= variance.flatten().kthvalue(variance.numel() - kept + 1).values


def _energies(vectors: Tensor) -> Tensor:
    """Return each expert's part of the sum of all squares: ``[N]``."""
    squares = torch.linalg.vector_norm(vectors.flatten(1), dim=1, dtype=torch.float64).square()
    total = squares.sum()
    return (squares / total.where(total > 0, 1.0)).to(vectors)
