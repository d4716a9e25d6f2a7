"""The order-free N-way generalisation of SLERP."""

import torch
from torch import Tensor

from modules.merging.merge_method import MergeMethod, outer, register, times, weights_of_directions
from modules.merging.slerp import SMALLEST_SINE

CONVERGED = 1e-14
"""Change of the cosines per step below which the mean has been found."""

MOST_STEPS = 1000


@register
class SphericalMean(MergeMethod):
    """SLERP for N task vectors without an order: ``V = sum_i b_i V_i``.

    ``m = sum_i b_i V_i / |V_i|`` is the weighted mean of the directions on the unit sphere: the point that minimises
    ``sum_i w_i alpha(m, V_i)^2`` with ``w = a / sum(a)`` (Karcher mean; Buss & Fillmore 2001,
    10.1145/502122.502124). As in SLERP the weights of the directions are then given to the vectors as they are, so
    that N = 2 *is* SLERP, at ``s = w_2``. It is worked out on N numbers and the Gram matrix.

    Zero vectors have no direction and take no part. Directions that cancel out have no mean: they are averaged.

    Example:
        >>> SphericalMean().coefficients(torch.ones(3), gram=torch.eye(3))  # three vectors at right angles
        tensor([0.5774, 0.5774, 0.5774])
    """

    name = "spherical_mean"
    formula = "mean of the directions on the sphere; SLERP for any number, without an order"
    reference = "https://doi.org/10.1145/502122.502124"
    uses_angles = True

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the weights ``b`` of the directions: ``[..., N]``."""
        mean, _, _ = mean_direction(a, gram)
        return mean


def mean_direction(a: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted Karcher mean of the directions of task vectors, differentiable in `a`.

    Args:
        a: ``[..., N]``, not negative.
        gram: ``[..., N, N]``.

    Returns:
        ``b``, ``[..., N]``, with the mean ``sum_i b_i V_i / |V_i|``; the normalised weights, which `b` is where
        directions cancel out, ``[..., N]``; and whether there is a mean, ``[..., 1]``.
    """
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    some = norms > 0
    weights = weights_of_directions(a, norms)
    cosines = gram / outer(norms, norms).where(outer(some, some), 1.0)
    with torch.no_grad():
        cos, found = _fixed_point(weights, cosines)
    if weights.requires_grad:
        cos = _with_derivative(cos, weights, cosines)
    factor = _factor(cos, weights)
    mean = factor / (factor * cos).sum(-1, keepdim=True).where(found, 1.0)
    return torch.where(found, mean, weights), weights, found


def _fixed_point(weights: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of the angles between the mean and the directions, and whether there is a mean.

    The point itself would be ambiguous in the directions where they are linearly dependent; its angles are not.

    Args:
        weights: ``[..., N]``.
        cosines: ``[..., N, N]``, between the directions.

    Returns:
        ``[..., N]``, 1 where there is no mean, and ``[..., 1]``.
    """
    cos = times(cosines, weights)
    square = (weights * cos).sum(-1, keepdim=True)
    found = square >= SMALLEST_SINE**2
    cos = torch.where(found, cos / square.where(found, 1.0).sqrt(), 1.0)
    for _ in range(MOST_STEPS):
        before, cos = cos, _step(cos, weights, cosines)
        if not (((cos - before).abs() >= CONVERGED) & found).any():
            break
    opposite = (cos < 0) & (1 - cos**2 < SMALLEST_SINE**2)
    surrounded = (_factor(cos, weights) * cos).sum(-1, keepdim=True) < SMALLEST_SINE
    found = found & ~surrounded & ~opposite.any(-1, keepdim=True) & cos.isfinite().all(-1, keepdim=True)
    return cos.where(found, 1.0), found


def _with_derivative(cos: Tensor, weights: Tensor, cosines: Tensor) -> Tensor:
    """Return the same cosines as a function of the weights.

    At the fixed point ``k = T(k, w)`` the implicit function theorem gives ``dk = (1 - dT/dk)^-1 dT/dw``. ``T - k`` is
    zero here, so one Newton step leaves the value as it is and carries this derivative.
    """
    with torch.enable_grad():
        k = cos.requires_grad_()
        moved = _step(k, weights.detach(), cosines).unbind(-1)
        # Groups do not see each other: the gradient of a sum over them is the gradient in each.
        rows = [torch.autograd.grad(each.sum(), k, retain_graph=True)[0] for each in moved]
    unit = torch.eye(cos.shape[-1], dtype=cos.dtype, device=cos.device)
    cos = cos.detach()
    return cos + times(torch.linalg.pinv(unit - torch.stack(rows, -2)), _step(cos, weights, cosines) - cos)


def _factor(cos: Tensor, weights: Tensor) -> Tensor:
    """Return ``w_i angle_i / sin(angle_i)``: ``[..., N]``; at the mean ``m``, ``sum_i factor_i u_i`` is along ``m``."""
    flat = 1 - cos.detach() ** 2 < SMALLEST_SINE**2
    angle = torch.where(flat, 0.0, cos.clamp(-1, 1)).acos()
    return weights * torch.where(flat, 1.0, angle / angle.sin())  # 1 is the limit of no angle


def _step(cos: Tensor, weights: Tensor, cosines: Tensor) -> Tensor:
    """Take one step of the fixed-point iteration: along the geodesic towards the weighted mean of the logarithms.

    Args:
        cos: ``[..., N]``, between the present point and the directions.
        weights: ``[..., N]``.
        cosines: ``[..., N, N]``, between the directions.
    """
    # log_m(u) = (angle / sin angle) (u - cos angle m); their mean is sum_i factor_i u_i - along m
    factor = _factor(cos, weights)
    along, moved = (factor * cos).sum(-1, keepdim=True), times(cosines, factor)
    length = ((factor * moved).sum(-1, keepdim=True) - along**2).clamp(min=1e-300).sqrt()
    return length.cos() * cos + torch.special.sinc(length / torch.pi) * (moved - along * cos)
