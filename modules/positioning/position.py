"""The learnable position: N coefficients and a scale that say where in the span of the task vectors to stand.

Shapes: N experts, G groups of tensors with coefficients of their own (1 in the paper).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from modules.errors import UserError
from modules.merging import MergeMethod

MOST_STEPS = 100
"""Maximum number of Newton's steps; a handful suffices where there is a solution."""

REACHED = 1e-6
"""Relative error of coefficients at which they count as found; float32 shows no less."""


def inverse_softplus(value: Tensor) -> Tensor:
    """Return the ``x`` whose softplus is `value`, for positive values."""
    return value + torch.log(-torch.expm1(-value))


def merge_coefficients(method: MergeMethod, a: Tensor, gram: Tensor, order: Sequence[int]) -> Tensor:
    """Return the coefficients of the task vectors, scale aside, in the experts' order.

    Args:
        method: maps ``a`` to coefficients.
        a: ``[..., N]``, in the experts' order; for zeros and signs see `MergeMethod`.
        gram: ``[..., N, N]``.
        order: indices of the experts in the order in which the method takes them.

    Returns:
        ``[..., N]``.

    Raises:
        UserError: `a` names no direction.
    """
    taken = torch.tensor(order)
    # Contiguous, because the order in which a sum is taken, and with it the last bit, follows the strides.
    c = method.coefficients(a[..., taken].contiguous(), gram[..., taken[:, None], taken].contiguous())
    return c[..., taken.argsort()]


def place_of(method: MergeMethod, c: Tensor, gram: Tensor, order: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the ``a`` and the scale at which a method has given coefficients, by Newton's method on logarithms.

    Coefficients have the signs and zeros of ``a``. Where only ratios of ``a`` matter, their mean size is 1.

    Args:
        method: maps ``a`` to coefficients.
        c: ``[N]`` float64, scale included.
        gram: ``[N, N]``.
        order: indices of the experts in the order in which the method takes them.

    Returns:
        ``a``, ``[N]``, and the scale, a scalar; 1 for a method that has none.

    Raises:
        UserError: the method has these coefficients nowhere.
    """
    kept = c != 0
    target = c[kept].abs().log()
    scale = target.new_zeros(int(method.has_scale))

    def place(logs: Tensor) -> tuple[Tensor, Tensor]:
        a, scale = logs.exp().split([len(target), len(logs) - len(target)])
        return torch.zeros_like(c).masked_scatter(kept, a) * c.sign(), scale.prod()

    def coefficients(logs: Tensor) -> Tensor:
        a, scale = place(logs)
        return scale * merge_coefficients(method, a, gram, order)

    def logarithms(logs: Tensor) -> Tensor:
        return coefficients(logs)[kept].abs().log()

    logs = torch.cat([target, scale])
    for _ in range(MOST_STEPS):
        missing = target - logarithms(logs)
        if not 1e-12 < missing.abs().max() < torch.inf:
            break
        # The shortest step, because multiples of a are alike.
        logs = logs + torch.linalg.lstsq(jacobian(logarithms, logs), missing[:, None], driver="gelsd").solution[:, 0]
    if not (coefficients(logs) - c).abs().max() <= REACHED * c.abs().max():
        raise UserError(f"{type(method).__name__} has the coefficients {_shown(c)} nowhere; start it elsewhere")
    a, scale = place(logs)
    return a / a.abs().mean() if method.has_scale else a, scale


def _shown(numbers: Tensor) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers.tolist())


@dataclass
class _Place:
    """The coefficients at a place, worked out once: all float64, on the CPU.

    Args:
        raw: ``[G, N + 1]``, the numbers there: of ``a``, then of the scale.
        c: ``[G, N]``, the coefficients.
        derivative: ``[G, N, N + 1]``, of `c` in `raw`; None until a gradient may be asked for.
    """

    raw: Tensor
    c: Tensor
    derivative: Tensor | None = None


class _Tie(torch.autograd.Function):
    """Ties coefficients to the raw numbers by a known derivative.

    The derivative is not saved for the backward pass: the first of a step's backward passes would free it.
    """

    @staticmethod
    def forward(ctx: Any, raw_a: Tensor, raw_scale: Tensor, c: Tensor, derivative: Tensor) -> Tensor:
        ctx.derivative, ctx.raw = derivative, (raw_a.detach(), raw_scale.detach())
        return c.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        raw_a, raw_scale = ctx.raw
        per_number = (gradient[:, :, None] * ctx.derivative).sum(1)
        return per_number[:, :-1].to(raw_a), per_number[:, -1].to(raw_scale), None, None


class Position(nn.Module):
    """Coefficients ``a`` and scale ``lambda`` of a merge, the only trainable numbers of Self Positioning.

    The parameters are the inverse softplus of these numbers (with `signed`, ``a`` itself), float32 at every precision
    of the model. The coefficients are computed from them in float64 on the CPU: they are a handful of numbers, and
    angles need the digits. They are computed once per place, however many forward and backward passes use them.

    Args:
        method: maps ``a`` to the coefficients of the task vectors.
        grams: ``[N, N]`` or ``[G, N, N]`` float64 Gram matrix of the task vectors of each group, in the experts' order.
        order: indices of the experts in the order in which the method takes them; None: as they are given.
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
        self._place: _Place | None = None

    @property
    def a(self) -> Tensor:
        """The free numbers ``a``: ``[G, N]`` float64."""
        return self._free(self.raw_a.cpu().double())

    @property
    def scale(self) -> Tensor:
        """The scale ``lambda``, positive: ``[G]`` float64; 1 for a method whose coefficients include it."""
        return self._positive(self.raw_scale.cpu().double())

    def coefficients(self, like: Tensor | None = None) -> Tensor:
        """Return the factors of the task vectors, scale included: ``[G, N]``; differentiable.

        Without gradients, and without `like`, it is the same tensor until the numbers change.

        Args:
            like: a tensor of the dtype and device for the factors and their gradient; None: float64 on the CPU.

        Raises:
            UserError: the numbers of a group name no direction.
        """
        place = self._here()
        like = place.c if like is None else like
        c = place.c.to(like, non_blocking=True)
        if not torch.is_grad_enabled():
            return c
        if place.derivative is None:
            place.derivative = self._derivative(place.raw)
        return _Tie.apply(self.raw_a, self.raw_scale, c, place.derivative.to(like, non_blocking=True))

    def _here(self) -> _Place:
        """Return the present place, worked out anew where the raw numbers have changed."""
        with torch.inference_mode(False), torch.no_grad():  # a place found in inference mode is trained at, too
            raw = torch.cat([self.raw_a, self.raw_scale[:, None]], 1).cpu().double()
            if self._place is None or not torch.equal(self._place.raw, raw):
                self._place = _Place(raw, self._coefficients_at(raw, self.grams))
        return self._place

    def _derivative(self, raw: Tensor) -> Tensor:
        """Return ``[G, N, N + 1]``, by one backward pass through a copy of each group per coefficient."""
        groups, experts, _ = self.grams.shape
        with torch.inference_mode(False), torch.enable_grad():
            copies = raw.repeat_interleave(experts, 0).requires_grad_()
            c = self._coefficients_at(copies, self.grams.repeat_interleave(experts, 0))
            each_of_its_copy = c.view(groups, experts, experts).diagonal(dim1=1, dim2=2)
            (derivative,) = torch.autograd.grad(each_of_its_copy.sum(), copies)
        return derivative.view(groups, experts, experts + 1)

    def _coefficients_at(self, raw: Tensor, grams: Tensor) -> Tensor:
        """Return coefficients ``[G, N]`` from ``[G, N + 1]`` and ``[G, N, N]``."""
        a, scale = self._free(raw[:, :-1].contiguous()), self._positive(raw[:, -1].contiguous())
        return scale[:, None] * merge_coefficients(self.method, a, grams, self.order)

    def _free(self, raw: Tensor) -> Tensor:
        return raw if self.signed else F.softplus(raw)

    def _positive(self, raw: Tensor) -> Tensor:
        return F.softplus(raw) if self.method.has_scale else torch.ones_like(raw)

    @torch.no_grad()
    def stand_at(self, a: Tensor | None = None, scale: float | None = None) -> None:
        """Move to a place, the same in all groups.

        Args:
            a: ``[N]``, positive unless `signed`; None: it stays.
            scale: positive, ignored by a method without a scale; None: it stays.

        Raises:
            UserError: the position cannot stand there.
        """
        if a is not None:
            self._refuse(a)
            self.raw_a.copy_(self._raw(a).expand_as(self.raw_a))
        if scale is not None and self.method.has_scale:
            if not 0 < scale < float("inf"):
                raise UserError(f"a position cannot have the scale {scale}; give one above 0")
            self.raw_scale.fill_(float(inverse_softplus(torch.tensor(scale, dtype=torch.float64))))

    @torch.no_grad()
    def stand_where(self, c: Tensor) -> None:
        """Move to the place where the prepared task vectors have given coefficients, the same in all groups.

        Args:
            c: ``[N]`` float64, scale included.

        Raises:
            UserError: there is no such place.
        """
        self._refuse(c)
        a, scale = zip(*(place_of(self.method, c, gram, self.order) for gram in self.grams), strict=True)
        self.raw_a.copy_(self._raw(torch.stack(a)))
        if self.method.has_scale:
            self.raw_scale.copy_(inverse_softplus(torch.stack(scale)))

    def _raw(self, a: Tensor) -> Tensor:
        return a if self.signed else inverse_softplus(a)

    def _refuse(self, numbers: Tensor) -> None:
        """Refuse numbers that can be neither ``a`` nor coefficients of this position."""
        if not numbers.isfinite().all():
            raise UserError(f"a position cannot stand at {_shown(numbers)}; give finite numbers")
        if not self.signed and not (numbers > 0).all():
            raise UserError(
                f"{_shown(numbers)} are not all above 0; a position stands there only if it is signed: true"
            )
        self.method.refuse_no_direction(numbers)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow the model to a device, but never to a lower precision (``bf16-true`` would round each step away)."""
        for parameter in (self.raw_a, self.raw_scale):
            device = fn(torch.empty(0, device=parameter.device)).device
            parameter.data = parameter.data.to(device)
        return self
