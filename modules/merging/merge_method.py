"""What a merge method is.

Shapes: N experts; ``...`` any number of groups of tensors, each with coefficients of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modules.errors import UserError

Stream = Callable[[], Iterator[tuple[str, Tensor]]]
"""Starts a pass over all tensors: name and task vectors ``[N, *shape]``, whether they are in memory or on disk."""

Statistics = Callable[[str], Tensor | None]
"""Name of a tensor to what was collected for it on each expert's data, stacked: ``[N, ...]``; None: nothing was."""


class Prepared(NamedTuple):
    """The task vectors of one tensor as a method combines them.

    Args:
        vectors: ``[N, *shape]``.
        importance: ``[N, *shape]``, not negative: how much each entry of an expert counts in the weighted mean of that
            entry over the experts; None: the vectors are added up.
    """

    vectors: Tensor
    importance: Tensor | None = None


Preparation = Callable[[str, Tensor], Prepared]
"""Name and task vectors ``[N, *shape]`` of a tensor to what is combined; it may work in place."""


class MergeMethod(ABC):
    """A merge of task vectors in two parts: what is combined, tensor by tensor, and with which coefficients.

    The second maps the free numbers ``a`` to the coefficients ``c`` and is differentiable in ``a``, which is all that
    Self Positioning needs. The merged task vector is ``sum_i c_i V_i``, or entry by entry a weighted mean
    (see `modules.merging.combine`).

    Signs and zeros mean the same in every method: a negative ``a_i`` merges ``-V_i`` with the weight ``|a_i|``, and
    ``a_i = 0`` leaves ``V_i`` out. Where only ratios of ``a`` matter, all zeros name no direction and are refused;
    where ``a`` are the factors themselves, as in task arithmetic, they are the base.
    """

    has_scale: bool = True
    """Whether the direction leaves the length free, so that a scale ``lambda`` is learned beside it."""

    uses_angles: bool = False
    """Whether the coefficients depend on the Gram matrix, which takes a pass over the task vectors before merging."""

    statistics: str | None = None
    """What it needs of every expert's data: ``fisher``, ``input_gram`` or nothing; see `modules.merging.statistics`."""

    rows: int = 0
    """How many rows of every expert's data that is collected from."""

    order: list[str] | None = None
    """The experts' names in the order of a merge that depends on it; None: as they come."""

    def coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """The coefficients of the task vectors, before the scale.

        Args:
            a: ``[..., N]``, of any sign.
            gram: ``[..., N, N]``, ``<V_i, V_j>``.

        Returns:
            ``[..., N]``, with the signs of `a`; NaN in a group where an argument is not finite, whatever the method
            makes of it.

        Raises:
            UserError: all of `a` of a group are 0 and name no direction.
        """
        self.refuse_no_direction(a)
        finite = a.isfinite().all(-1, keepdim=True) & gram.isfinite().all(-1).all(-1, keepdim=True)
        # Harmless numbers stand in for what is not finite: an iteration or a solver might not come back from NaN.
        a, gram = a.where(finite, 1.0), gram.where(finite[..., None], 1.0)
        sign = torch.where(a.detach() < 0, -1.0, 1.0).to(a)
        c = sign * self.positive_coefficients(sign * a, outer(sign, sign) * gram)
        return c.masked_fill(~finite, torch.nan)

    @abstractmethod
    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """The coefficients of task vectors none of which is subtracted, before the scale.

        Args:
            a: ``[..., N]``, not negative, and not all 0 for a method that has a scale.
            gram: ``[..., N, N]``, ``<V_i, V_j>``.

        Returns:
            ``[..., N]``, not negative.
        """

    def refuse_no_direction(self, a: Tensor) -> None:
        """Refuse all zeros, unless they are factors of the task vectors.

        Args:
            a: ``[..., N]``.

        Raises:
            UserError: those of a group name no direction.
        """
        if self.has_scale and not a.any(-1).all():
            raise UserError(
                f"the coefficients of {type(self).__name__} are all 0 and name no direction; "
                "give one that is not, or scale 0 for the base"
            )

    def initial(self, experts: int) -> Tensor:
        """The ``a`` to start from: ``[N]``, all ones unless a method says otherwise."""
        return torch.ones(experts, dtype=torch.float64)

    def places(self, experts: Sequence[str]) -> list[int]:
        """Indices of the experts in the order in which the method takes them.

        Raises:
            UserError: the method's order does not name each expert once.
        """
        names, order = list(experts), self.order or list(experts)
        if sorted(order) != sorted(names):
            raise UserError(
                f"the order {order} of {type(self).__name__} does not name each of the experts {names} once"
            )
        return [names.index(name) for name in order]

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return how task vectors are changed before they are combined; as they are unless a method says otherwise.

        Args:
            stream: the task vectors of all tensors, for what has to be known of all before the first is merged.
            statistics: for a method that needs them.
        """
        return lambda name, vectors: Prepared(vectors)


def outer(u: Tensor, v: Tensor) -> Tensor:
    """``u_i v_j``: ``[..., N, N]`` from two ``[..., N]``."""
    return u[..., :, None] * v[..., None, :]


def times(gram: Tensor, c: Tensor) -> Tensor:
    """The dot products of every task vector with ``sum_j c_j V_j``: ``[..., N]`` from ``[..., N, N]`` and ``[..., N]``.

    Multiplied out: for a handful of numbers that is faster than a batched matrix product.
    """
    return (gram * c[..., None, :]).sum(-1)


def normalised(a: Tensor) -> Tensor:
    """``a_i / sum(a)``: ``[..., N]``."""
    return a / a.sum(-1, keepdim=True)


def weights_of_directions(a: Tensor, norms: Tensor) -> Tensor:
    """Return the normalised weights of the directions: zero vectors have none, and count only where nothing else does.

    Args:
        a: ``[..., N]``.
        norms: ``[..., N]``, lengths of the task vectors.
    """
    directed = torch.where(norms > 0, a, 0.0)
    return normalised(torch.where(directed.any(-1, keepdim=True), directed, a))


def check_fraction(value: float, key: str) -> None:
    """Refuse what is no fraction in (0, 1].

    Raises:
        UserError: it is not.
    """
    if not 0 < value <= 1:
        raise UserError(f"{key} is {value}; it is a fraction above 0, at most 1")
