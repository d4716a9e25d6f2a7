"""The order-free N-way generalisation of SLERP."""

import torch
from torch import Tensor

from modules.merging.base import MergeMethod, weights_of_directions
from modules.merging.slerp import SMALLEST_SINE

CONVERGED = 1e-14
"""Change of the cosines in a step below which the mean has been found."""

MOST_STEPS = 1000


class SphericalMean(MergeMethod):
    """SLERP for N task vectors without an order: ``V = sum_i b_i V_i``.

    ``m = sum_i b_i V_i / |V_i|`` is the weighted mean of the directions on the unit sphere: the point that minimises
    ``sum_i w_i alpha(m, V_i)^2`` with ``w = a / sum(a)`` (Karcher mean; Buss & Fillmore 2001,
    10.1145/502122.502124). As in SLERP the weights of the directions are then given to the vectors as they are, so
    that N = 2 *is* SLERP, at ``s = w_2``. It is worked out on N numbers and the Gram matrix.

    Zero vectors have no direction and take no part. Directions that cancel out have no mean: they are averaged.
    """

    uses_angles = True

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """The weights ``b`` of the directions: ``[N]``."""
        norms = gram.diagonal().sqrt()
        some = norms > 0
        weights = weights_of_directions(a, norms)
        cosines = gram / torch.outer(norms, norms).where(torch.outer(some, some), 1.0)
        with torch.no_grad():
            cos = _fixed_point(weights, cosines)
        if cos is None:
            return weights
        # At the fixed point k = T(k, w) the implicit function theorem gives dk = (1 - dT/dk)^-1 dT/dw. T - k is zero
        # here, so one Newton step leaves the value as it is and carries this derivative.
        jacobian = torch.autograd.functional.jacobian(lambda k: _step(k, weights.detach(), cosines), cos)
        unit = torch.eye(len(a), dtype=gram.dtype, device=gram.device)
        cos = cos + torch.linalg.lstsq(unit - jacobian, (_step(cos, weights, cosines) - cos)[:, None]).solution[:, 0]
        factor = _factor(cos, weights)
        return factor / (factor * cos).sum()


def _fixed_point(weights: Tensor, cosines: Tensor) -> Tensor | None:
    """The cosines of the angles between the mean and the directions: ``[N]``; None where there is no mean.

    The point itself would be ambiguous in the directions where they are linearly dependent; its angles are not.
    """
    square = weights @ cosines @ weights
    if square < SMALLEST_SINE**2:
        return None
    cos = cosines @ weights / square.sqrt()
    for _ in range(MOST_STEPS):
        before, cos = cos, _step(cos, weights, cosines)
        if (cos - before).abs().max() < CONVERGED:
            break
    opposite = (cos < 0) & (1 - cos**2 < SMALLEST_SINE**2)
    surrounded = (_factor(cos, weights) * cos).sum() < SMALLEST_SINE
    return None if surrounded or opposite.any() or not cos.isfinite().all() else cos


def _factor(cos: Tensor, weights: Tensor) -> Tensor:
    """``w_i angle_i / sin(angle_i)``: ``[N]``; at the mean ``m``, ``sum_i factor_i u_i`` is a multiple of it."""
    flat = 1 - cos.detach() ** 2 < SMALLEST_SINE**2
    angle = torch.where(flat, 0.0, cos.clamp(-1, 1)).acos()
    return weights * torch.where(flat, 1.0, angle / angle.sin())  # 1 is the limit of no angle


def _step(cos: Tensor, weights: Tensor, cosines: Tensor) -> Tensor:
    """One step of the fixed-point iteration: along the geodesic towards the weighted mean of the logarithms.

    Args:
        cos: ``[N]``, between the present point and the directions.
        weights: ``[N]``.
        cosines: ``[N, N]``, between the directions.
    """
    # log_m(u) = (angle / sin angle) (u - cos angle m); their mean is sum_i factor_i u_i - along m
    factor = _factor(cos, weights)
    along = (factor * cos).sum()
    length = (factor @ cosines @ factor - along**2).clamp(min=1e-300).sqrt()
    return length.cos() * cos + torch.special.sinc(length / torch.pi) * (cosines @ factor - along * cos)
