"""The one kernel of merging: ``theta_0 + sum_i c_i V_i``, and its gradient.

Every route that makes merged weights, learned or written to files, calls `combine`, so all give the same bits.
Shapes: N experts.
"""

from typing import Any

import torch
from torch import Tensor


def combine(base: Tensor, vectors: Tensor, coefficients: Tensor) -> Tensor:
    """Merge one tensor, accumulating in float32 or better; no gradient is recorded.

    Args:
        base: theta_0, any shape.
        vectors: ``[N, *base.shape]``, the experts' task vectors.
        coefficients: ``[N]``.

    Returns:
        The merged tensor, in the dtype of `base`.
    """
    with torch.no_grad():
        accumulator = torch.promote_types(base.dtype, torch.float32)
        merged = base.to(accumulator, copy=True)
        for vector, coefficient in zip(vectors, coefficients.to(merged), strict=True):
            merged.addcmul_(vector.to(accumulator), coefficient)
        return merged.to(base.dtype)


class _AttachCoefficients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, merged: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(vectors)
        ctx.coefficients = coefficients.dtype, coefficients.device
        return merged.view_as(merged)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (vectors,) = ctx.saved_tensors
        accumulator = torch.promote_types(vectors.dtype, torch.float32)
        dots = vectors.flatten(1).to(accumulator) @ gradients[0].flatten().to(accumulator)
        dtype, device = ctx.coefficients
        return dots.to(device=device, dtype=dtype), None, None


def attach_coefficients(coefficients: Tensor, merged: Tensor, vectors: Tensor) -> Tensor:
    """Tie an already merged tensor to its coefficients in the autograd graph.

    The gradient of coefficient i is the dot product ``<dL/dtheta, V_i>``. Merging once per optimiser step and
    attaching once per forward pass is what makes a position cheap to train.

    Args:
        coefficients: ``[N]``, those that `merged` was made with.
        merged: ``combine(base, vectors, coefficients)``.
        vectors: ``[N, *merged.shape]``.

    Returns:
        The same values as `merged`, without a copy.
    """
    return _AttachCoefficients.apply(coefficients, merged, vectors)
