"""Spherical linear interpolation of task vectors, chained over more than two.

The angle is taken between task vectors, not between weights: the weights of fine-tuned models are all but parallel.
"""

import torch
from torch import Tensor

from modules.merging.merge_method import MergeMethod, register, times

SMALLEST_SINE = 1e-6
"""Sine below which two directions count as (anti)parallel, where SLERP is taken to its linear limit."""


@register
class Slerp(MergeMethod):
    """The chain ``V_(1..k) = f(V_(1..k-1), V_k; s_k)`` with ``s_k = a_k / (mean(a_1..a_(k-1)) + a_k)``.

    ``f(U, V; s) = [sin((1-s) alpha) U + sin(s alpha) V] / sin(alpha)``, alpha the angle between U and V: Li et al. 2024
    (arXiv 2410.15035), section 3. The result depends on the order of the experts, and only on ratios of ``a``. It
    stays in the span of the task vectors, so it is worked out on N numbers and the Gram matrix.

    Args:
        order: the experts' names, first merged first; None: the order in which they are given.

    Example:
        >>> Slerp().coefficients(torch.ones(2), gram=torch.eye(2))  # halfway between two vectors at right angles
        tensor([0.7071, 0.7071])
    """

    name = "slerp"
    formula = "the paper's chain of spherical interpolations; depends on the order"
    reference = "arXiv 2410.15035"
    uses_angles = True

    def __init__(self, order: list[str] | None = None) -> None:
        self.order = order

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the chain's coefficients in the span: ``[..., N]``."""
        unit = torch.eye(a.shape[-1], dtype=gram.dtype, device=gram.device)
        c = unit[0].expand_as(a)
        for k in range(1, a.shape[-1]):
            total = a[..., :k].mean(-1, keepdim=True) + a[..., k : k + 1]
            some = total > 0
            s = torch.where(some, a[..., k : k + 1] / total.where(some, 1.0), 0.5)  # of two that are dropped, either
            keep, take = slerp_weights(s, cosine_to(k, c, gram))
            c = keep * c + take * unit[k]
        return c


def cosine_to(k: int, c: Tensor, gram: Tensor) -> Tensor:
    """Return the cosine of the angle between ``V_k`` and ``sum_i c_i V_i``.

    Args:
        k: index of an expert.
        c: ``[..., N]``.
        gram: ``[..., N, N]``.

    Returns:
        ``[..., 1]`` in [-1, 1]; 1 where one of the vectors is zero, so that the linear limit is taken.
    """
    dots = times(gram, c)
    squares = (c * dots).sum(-1, keepdim=True) * gram[..., k, k, None]
    zero = squares <= 0
    return torch.where(zero, 1.0, dots[..., k : k + 1] / squares.where(~zero, 1.0).sqrt()).clamp(-1, 1)


def slerp_weights(s: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of U and V in SLERP at ``s``, or the linear limit ``1 - s, s`` where U, V are (anti)parallel.

    Args:
        s: in [0, 1], of any shape.
        cos: cosine of the angle between U and V, of the same shape.
    """
    parallel = 1 - cos.detach() ** 2 < SMALLEST_SINE**2
    # A harmless angle stands in where the limit is taken: `where` also multiplies the gradient of the branch not taken.
    alpha = torch.where(parallel, 0.0, cos).acos()
    sine = alpha.sin()
    keep, take = ((1 - s) * alpha).sin() / sine, (s * alpha).sin() / sine
    return torch.where(parallel, 1 - s, keep), torch.where(parallel, s, take)
