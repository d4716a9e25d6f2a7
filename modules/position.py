"""The learnable position: N + 1 numbers that say where in the span of the task vectors to stand.

Shapes: N experts.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.merging import MergeMethod


def inverse_softplus(value: Tensor) -> Tensor:
    """The ``x`` whose softplus is `value`, for positive values."""
    return value + torch.log(-torch.expm1(-value))


class Position(nn.Module):
    """Coefficients ``a`` (positive) and scale ``lambda`` of a merge, the only trainable numbers of Self Positioning.

    The parameters are the inverse softplus of what they stand for, float32 at every precision of the model. What is
    computed from them is computed in float64 on the CPU: it is a handful of numbers, and angles need the digits.

    Args:
        method: maps ``a`` to the coefficients of the task vectors.
        gram: ``[N, N]`` float64 Gram matrix of the task vectors, in the experts' order.
        order: the rows of `gram` in the order in which the method takes them.
    """

    def __init__(self, method: MergeMethod, gram: Tensor, order: list[int] | None = None) -> None:
        super().__init__()
        self.method = method
        self.gram = gram
        self.order = order or list(range(len(gram)))
        self.raw_a = nn.Parameter(inverse_softplus(method.initial(len(gram))).float())
        # Shape (1,), because FSDP rejects parameters without a dimension.
        self.raw_scale = nn.Parameter(inverse_softplus(torch.ones(1)), requires_grad=method.has_scale)

    @property
    def a(self) -> Tensor:
        """``[N]``: the free numbers as they are, positive."""
        return F.softplus(self.raw_a.cpu().double())

    @property
    def scale(self) -> Tensor:
        """``lambda``, a positive scalar; 1 for a method whose coefficients include it."""
        return F.softplus(self.raw_scale.cpu().double()).squeeze() if self.method.has_scale else torch.tensor(1.0)

    def coefficients(self) -> Tensor:
        """``[N]`` float64: what each task vector is multiplied with, scale included; differentiable."""
        order = torch.tensor(self.order)
        c = self.method.coefficients(self.a[order], self.gram[order][:, order])
        return self.scale * torch.zeros_like(c).index_copy(0, order, c)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow the model to a device, but never to a lower precision (``bf16-true`` would round each step away)."""
        for parameter in (self.raw_a, self.raw_scale):
            device = fn(torch.empty(0, device=parameter.device)).device
            parameter.data = parameter.data.to(device)
        return self
