"""The Karcher mean of the task vectors: their mean direction on the sphere, with their mean length."""

import torch
from torch import Tensor

from modules.merging.merge_method import MergeMethod, register
from modules.merging.spherical_mean import mean_direction


@register
class Karcher(MergeMethod):
    """``V = m * sum_i w_i |V_i|`` with ``w = a / sum(a)`` and ``m`` the weighted Karcher mean of the directions.

    ``m`` is the unit vector that minimises ``sum_i w_i alpha(m, V_i)^2`` (Buss & Fillmore 2001,
    10.1145/502122.502124); it is found on N numbers and the Gram matrix. Unlike in `SphericalMean`, a long task vector
    does not turn the result: the length is taken apart from the direction, as in mergekit's ``karcher``. Zero vectors
    take no part; directions that cancel out have no mean and are averaged.

    Example:
        >>> Karcher().coefficients(torch.ones(2), gram=torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
        tensor([1.0607, 0.5303])
    """

    name = "karcher"
    formula = "mean of the directions on the sphere, times the weighted mean of the norms"
    reference = "https://doi.org/10.1145/502122.502124"
    uses_angles = True

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the coefficients of the mean: ``[..., N]``."""
        mean, weights, found = mean_direction(a, gram)
        norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        length = (weights * norms).sum(-1, keepdim=True)
        return torch.where(found, mean * length / norms.where(norms > 0, 1.0), weights)
