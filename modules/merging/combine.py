"""The one kernel of merging: ``theta_0 + V``, with ``V`` made of task vectors and coefficients, and its gradient.

Every route that makes merged weights, learned or written to files, calls `combine`, so all give the same bits.

``V = sum_i c_i V_i``; or, with an importance ``F_i`` for every entry, the weighted mean of the entry over the experts,
in the size of the coefficients: ``V = S * sum_i c_i F_i V_i / sum_i |c_i| F_i`` with ``S = sum_i |c_i|``. With equal
importances the two formulas agree. Entries of no importance in any expert take the first.

Shapes: N experts.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from modules.full_precision import float32_or_better, without_autocast

CHUNK = 1 << 20
"""Entries of each task vector that a backward pass raises to float32 and reduces at a time."""


CACHED = 1 << 17
"""Entries of each task vector that a CPU takes a weighted mean of at a time: they fit a cache."""


def combine(
    base: Tensor,
    vectors: Tensor,
    coefficients: Tensor,
    importance: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Merge one tensor, accumulating in float32 or better; no gradient is recorded.

    Args:
        base: theta_0, any shape.
        vectors: ``[N, *base.shape]``, the experts' task vectors.
        coefficients: ``[N]``.
        importance: ``[N, *base.shape]``, not negative; None: the vectors are added up.
        out: contiguous, of the shape of `base`, in which float32 or better is accumulated; None: made here.

    Returns:
        The merged tensor, in the dtype of `base`.
    """
    with torch.no_grad(), without_autocast(base):
        accumulator = torch.promote_types(base.dtype, torch.float32)
        if out is None:
            merged = base.to(accumulator, copy=True, memory_format=torch.contiguous_format)
        else:
            merged = out.copy_(base)
        c = coefficients.to(merged)
        if importance is None:
            return _sum(vectors, c, merged).to(base.dtype)
        size = CACHED if merged.is_cpu else max(1, merged.numel())
        parts = (merged.view(-1).split(size), vectors.flatten(1).split(size, 1), importance.flatten(1).split(size, 1))
        for start, ours, entries in zip(*parts, strict=True):
            mean, total = _weighted_mean(ours, c, entries)
            plain = _sum(ours, c, torch.zeros_like(start))
            start.add_(torch.where(total > 0, c.abs().sum() * mean, plain))
        return merged.to(base.dtype)


def _sum(vectors: Tensor, c: Tensor, start: Tensor) -> Tensor:
    for vector, coefficient in zip(vectors, c, strict=True):
        start.addcmul_(vector.to(start.dtype), coefficient)
    return start


def _weighted_mean(vectors: Tensor, c: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``sum_i c_i F_i V_i / sum_i |c_i| F_i``, 0 where the divisor is 0, and the divisor."""
    total = torch.zeros_like(importance[0], dtype=c.dtype)
    mean = torch.zeros_like(total)
    for vector, coefficient, entries in zip(vectors, c, importance, strict=True):
        total.addcmul_(entries.to(c.dtype), coefficient.abs())
        mean.addcmul_(vector.to(c.dtype) * coefficient, entries.to(c.dtype))
    return mean.div_(total.where(total > 0, 1.0)), total


class _AttachCoefficients(torch.autograd.Function):
    """Identity of the merged tensor, with a gradient for its coefficients.

    Its tensors are not saved for the backward pass: the first of a step's backward passes would free them.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, merged: Tensor, vectors: Tensor, importance: Tensor | None) -> Tensor:
        ctx.coefficients, ctx.vectors, ctx.importance = coefficients.detach(), vectors, importance
        return merged.view_as(merged)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        exact = float32_or_better(ctx.vectors[:0])
        c = ctx.coefficients.to(exact)
        dots = torch.zeros_like(c)
        with without_autocast(exact):  # a search may take gradients in the autocast of its training step
            for part, slope, entries in _chunks(ctx.vectors, gradients[0], ctx.importance):
                if entries is None:
                    dots += part.to(exact) @ slope.to(exact)
                else:
                    dots += _weighted_mean_dots(part, c, entries, slope.to(exact))
        return dots.to(ctx.coefficients), None, None, None


def _chunks(
    vectors: Tensor, gradient: Tensor, importance: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Split the entries of a tensor into parts: ``[N, entries]``, ``[entries]`` and ``[N, entries]`` or None."""
    parts, slopes = vectors.flatten(1).split(CHUNK, 1), gradient.flatten().split(CHUNK)
    entries = [None] * len(parts) if importance is None else importance.flatten(1).split(CHUNK, 1)
    return zip(parts, slopes, entries, strict=True)


def _weighted_mean_dots(vectors: Tensor, c: Tensor, importance: Tensor, gradient: Tensor) -> Tensor:
    """Return ``<dL/dtheta, dV/dc_i>`` of the weighted mean: ``[N]``."""
    mean, total = _weighted_mean(vectors, c, importance)
    some = total > 0
    per_total = torch.where(some, c.abs().sum() * gradient / total.where(some, 1.0), 0.0)
    # dV/dc_i = sign(c_i) mean + S F_i (V_i - sign(c_i) mean) / total, and V_i where nothing has importance
    along_mean, elsewhere = (gradient * mean).sum(), gradient.masked_fill(some, 0.0)
    dots = []
    for vector, sign, entries in zip(vectors, torch.where(c < 0, -1.0, 1.0).to(c), importance, strict=True):
        ours = vector.to(c.dtype)
        inside = (per_total * entries.to(c.dtype) * (ours - sign * mean)).sum()
        dots.append(sign * along_mean + inside + (elsewhere * ours).sum())
    return torch.stack(dots)


def attach_coefficients(
    coefficients: Tensor, merged: Tensor, vectors: Tensor, importance: Tensor | None = None
) -> Tensor:
    """Tie an already merged tensor to its coefficients in the autograd graph.

    Without importances the gradient of coefficient i is the dot product ``<dL/dtheta, V_i>``, accumulated in float32 or
    better. Merging and attaching once per optimiser step makes a position cheap to train: the attached tensor can be
    used in any number of forward and backward passes, each of which reduces its gradient to N numbers once.

    Args:
        coefficients: ``[N]``, with which `merged` was made.
        merged: ``combine(base, vectors, coefficients, importance)``.
        vectors: ``[N, *merged.shape]``.
        importance: ``[N, *merged.shape]`` or None.

    Returns:
        The same values as `merged`, without a copy.
    """
    return _AttachCoefficients.apply(coefficients, merged, vectors, importance)
