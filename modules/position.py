"""The learnable position: N coefficients and a scale that say where in the span of the task vectors to stand.

Shapes: N experts, G groups of tensors with coefficients of their own (1 in the paper).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.merging import MergeMethod


def inverse_softplus(value: Tensor) -> Tensor:
    """The ``x`` whose softplus is `value`, for positive values."""
    return value + torch.log(-torch.expm1(-value))


def merge_coefficients(method: MergeMethod, a: Tensor, gram: Tensor, order: Sequence[int]) -> Tensor:
    """The coefficients of the task vectors, scale aside, in the experts' order.

    A negative ``a_i`` merges ``-V_i`` with the weight ``|a_i|``, so that every method lets an expert be dropped or
    subtracted.

    Args:
        method: maps positive ``a`` to coefficients.
        a: ``[N]``.
        gram: ``[N, N]``.
        order: the experts in the order in which the method takes them.

    Returns:
        ``[N]``.
    """
    taken = torch.tensor(order)
    sign = torch.where(a.detach() < 0, -1.0, 1.0).to(a)[taken]
    c = sign * method.coefficients(sign * a[taken], torch.outer(sign, sign) * gram[taken][:, taken])
    return torch.zeros_like(c).index_copy(0, taken, c)


class Position(nn.Module):
    """Coefficients ``a`` and scale ``lambda`` of a merge, the only trainable numbers of Self Positioning.

    The parameters are the inverse softplus of what they stand for (with `signed`, ``a`` itself), float32 at every
    precision of the model. What is computed from them is computed in float64 on the CPU: it is a handful of numbers,
    and angles need the digits.

    Args:
        method: maps ``a`` to the coefficients of the task vectors.
        grams: ``[N, N]`` or ``[G, N, N]`` float64 Gram matrix of the task vectors of each group, in the experts' order.
        order: the experts in the order in which the method takes them.
        signed: whether ``a`` may be zero or negative.
        labels: the groups' names.
    """

    def __init__(
        self,
        method: MergeMethod,
        grams: Tensor,
        order: Sequence[int] | None = None,
        signed: bool = False,
        labels: Sequence[str] = ("model",),
    ) -> None:
        super().__init__()
        self.method = method
        self.grams = grams if grams.ndim == 3 else grams[None]
        groups, experts, _ = self.grams.shape
        self.order = list(order or range(experts))
        self.signed = signed
        self.labels = list(labels)
        start = method.initial(experts).expand(groups, experts)
        self.raw_a = nn.Parameter((start if signed else inverse_softplus(start)).float().clone())
        self.raw_scale = nn.Parameter(inverse_softplus(torch.ones(groups)), requires_grad=method.has_scale)

    @property
    def a(self) -> Tensor:
        """``[G, N]``: the free numbers as they are."""
        raw = self.raw_a.cpu().double()
        return raw if self.signed else F.softplus(raw)

    @property
    def scale(self) -> Tensor:
        """``lambda``, positive: ``[G]``; 1 for a method whose coefficients include it."""
        return F.softplus(self.raw_scale.cpu().double()) if self.method.has_scale else torch.ones(len(self.raw_scale))

    def coefficients(self) -> Tensor:
        """``[G, N]`` float64: what each task vector is multiplied with, scale included; differentiable."""
        c = [merge_coefficients(self.method, a, gram, self.order) for a, gram in zip(self.a, self.grams, strict=True)]
        return self.scale[:, None] * torch.stack(c)

    @torch.no_grad()
    def stand_at(self, a: Tensor | None = None, scale: float | None = None) -> None:
        """Move to a place, the same in all groups.

        Args:
            a: ``[N]``, positive unless `signed`; None: as it is.
            scale: positive, of a method that has one; None: as it is.
        """
        if a is not None:
            self.raw_a.copy_((a if self.signed else inverse_softplus(a)).expand_as(self.raw_a))
        if scale is not None and self.method.has_scale:
            self.raw_scale.fill_(float(inverse_softplus(torch.tensor(scale, dtype=torch.float64))))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow the model to a device, but never to a lower precision (``bf16-true`` would round each step away)."""
        for parameter in (self.raw_a, self.raw_scale):
            device = fn(torch.empty(0, device=parameter.device)).device
            parameter.data = parameter.data.to(device)
        return self
