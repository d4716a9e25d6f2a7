"""Multi-SLERP: a closed form for N directions."""

import torch
from torch import Tensor

from modules.merging.merge_method import MergeMethod, register, times, weights_of_directions


@register
class MultiSlerp(MergeMethod):
    """mergekit's Multi-SLERP, taken at the base.

    ``c_i = (w_i / |V_i|) * sum_j w_j |V_j| / |sum_j w_j V_j / |V_j||`` with ``w = a / sum(a)``: the normalised weighted
    sum of the directions, with the weighted mean of the norms (Goddard et al. 2024, arXiv 2403.13257; mergekit's
    ``multislerp``). Zero vectors take no part; directions that cancel out are averaged.

    Example:
        >>> MultiSlerp().coefficients(torch.ones(2), gram=torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
        tensor([1.0607, 0.5303])
    """

    name = "multi_slerp"
    formula = "weighted sum of the directions, normalised, times the weighted mean of the norms"
    reference = "arXiv 2403.13257"
    uses_angles = True

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the coefficients of the closed form: ``[..., N]``."""
        norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        some = norms > 0
        weights = weights_of_directions(a, norms)
        direction = weights / norms.where(some, 1.0)
        square = (direction * times(gram, direction)).sum(-1, keepdim=True)
        cancelled = square < 1e-12
        length = square.where(~cancelled, 1.0).sqrt()
        return torch.where(cancelled, weights, direction * (weights * norms).sum(-1, keepdim=True) / length)
