"""The base class of merge methods, and the functions of coefficients that several methods share.

Shapes: N experts; ``...`` any number of groups of tensors, each with coefficients of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from modules.errors import UserError

Stream = Callable[[], Iterator[tuple[str, Tensor]]]
"""Starts a pass over all tensors: name and task vectors ``[N, *shape]``, whether they are in memory or on disk."""

Statistics = Callable[[str], Tensor | None]
"""Name of a tensor to the statistics of each expert's data for it, stacked: ``[N, ...]``; None: it has none."""


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
"""Name and task vectors ``[N, *shape]`` of a tensor to the vectors to combine; it may work in place."""


class MergeMethod(ABC):
    """A merge of task vectors in two parts: their preparation, tensor by tensor, and their coefficients.

    The coefficients ``c`` are a function of the free numbers ``a`` that is differentiable in ``a``, which is all that
    Self Positioning needs. The merged task vector is ``sum_i c_i V_i``, or entry by entry a weighted mean
    (see `modules.merging.combine`).

    Signs and zeros mean the same in every method: a negative ``a_i`` merges ``-V_i`` with the weight ``|a_i|``, and
    ``a_i = 0`` leaves ``V_i`` out. Where only ratios of ``a`` matter, all zeros name no direction and are refused;
    where ``a`` are the factors themselves, as in task arithmetic, they are the base.

    Example:
        Weights by the squares of ``a``, in ``modules/merging/squares.py``; one line of ``modules/merging/__init__.py``
        and one of ``modules/__init__.pyi`` export it, and ``--method squares`` or, in a recipe, ``method: {class_path:
        modules.Squares}`` merges with it::

            @register
            class Squares(MergeMethod):
                name = "squares"
                formula = "average weighted by the squares of a"
                reference = "https://example.org/squares"

                def positive_coefficients(self, a, gram):
                    return normalised(a**2)
    """

    name: ClassVar[str]
    """The method on the command line, in recipes and in tables: the name of its file."""

    formula: ClassVar[str]
    """The merged task vector in one line, without a vertical bar, for tables."""

    reference: ClassVar[str]
    """The definition: an arXiv number or a URL."""

    learned: bool = True
    """False where the method fixes the numbers that a search would find; see `refuse_learning`."""

    has_scale: bool = True
    """True where the coefficients give a direction only, so that a scale ``lambda`` is learned beside them."""

    uses_angles: bool = False
    """True where the coefficients depend on the Gram matrix, which takes a pass over the task vectors first."""

    statistics: str | None = None
    """Statistics of every expert's data: ``fisher``, ``input_gram`` or None; see `modules.merging.statistics`."""

    rows: int = 0
    """Number of rows of every expert's data from which the statistics are collected."""

    order: list[str] | None = None
    """The experts' names in the order of a merge that depends on it; None: the order in which they are given."""

    def coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the coefficients of the task vectors, before the scale.

        Args:
            a: ``[..., N]``, of any sign.
            gram: ``[..., N, N]``, ``<V_i, V_j>``.

        Returns:
            ``[..., N]``, with the signs of `a`; NaN in a group where an argument is not finite.

        Raises:
            UserError: see `refuse_no_direction`.
        """
        self.refuse_no_direction(a)
        finite = a.isfinite().all(-1, keepdim=True) & gram.isfinite().all(-1).all(-1, keepdim=True)
        # Harmless numbers stand in for those that are not finite: an iteration or a solver might not stop at NaN.
        a, gram = a.where(finite, 1.0), gram.where(finite[..., None], 1.0)
        sign = torch.where(a.detach() < 0, -1.0, 1.0).to(a)
        c = sign * self.positive_coefficients(sign * a, outer(sign, sign) * gram)
        return c.masked_fill(~finite, torch.nan)

    @abstractmethod
    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the coefficients of task vectors none of which is subtracted, before the scale.

        Args:
            a: ``[..., N]``, not negative, and not all 0 for a method that has a scale.
            gram: ``[..., N, N]``, ``<V_i, V_j>``.

        Returns:
            ``[..., N]``, not negative.
        """

    def refuse_no_direction(self, a: Tensor) -> None:
        """Refuse numbers that are all 0, unless they are the factors of the task vectors themselves.

        Args:
            a: ``[..., N]``.

        Raises:
            UserError: the numbers of a group are all 0 and name no direction.
        """
        if self.has_scale and not a.any(-1).all():
            raise UserError(
                f"the coefficients of {type(self).__name__} are all 0 and name no direction; "
                "give one that is not, or scale 0 for the base"
            )

    def refuse_learning(self, key: str = "method") -> None:
        """Refuse to be learned, where the method fixes the numbers that a search would find.

        Args:
            key: that gives the method, for the message.

        Raises:
            UserError: the method is not `learned`.
        """
        if not self.learned:
            kind = type(self).__name__
            raise UserError(f"{key}: {kind} fixes its own numbers, which leaves nothing to learn; use another method")

    def initial(self, experts: int) -> Tensor:
        """Return the ``a`` to start from: ``[N]`` float64, all ones unless a method says otherwise."""
        return torch.ones(experts, dtype=torch.float64)

    def places(self, experts: Sequence[str]) -> list[int]:
        """Return the indices of the experts in the order in which the method takes them.

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
        """Return the preparation of the task vectors; by default they are combined as they are.

        Args:
            stream: the task vectors of all tensors, for a preparation that depends on all of them.
            statistics: of the experts' data, for a method that needs them.
        """
        return lambda name, vectors: Prepared(vectors)


METHODS: dict[str, type[MergeMethod]] = {}
"""Name of each registered merge method to its class; without arguments, a class makes the usual form of its method."""

AnyMethod = TypeVar("AnyMethod", bound=type[MergeMethod])


def register(method: AnyMethod) -> AnyMethod:
    """Register a class of merge methods by its name, which is that of its file."""
    assert method.name not in METHODS, f"two merge methods are called {method.name!r}"
    assert method.name == method.__module__.rpartition(".")[2], f"{method.name!r} is in a file of another name"
    METHODS[method.name] = method
    return method


def outer(u: Tensor, v: Tensor) -> Tensor:
    """Return ``u_i v_j``: ``[..., N, N]`` from two ``[..., N]``."""
    return u[..., :, None] * v[..., None, :]


def times(gram: Tensor, c: Tensor) -> Tensor:
    """Return the dot product of every task vector with ``sum_j c_j V_j``: ``[..., N]``.

    It is multiplied out: for a handful of numbers that is faster than a batched matrix product.

    Args:
        gram: ``[..., N, N]``, ``<V_i, V_j>``.
        c: ``[..., N]``.
    """
    return (gram * c[..., None, :]).sum(-1)


def normalised(a: Tensor) -> Tensor:
    """Return ``a_i / sum(a)``: ``[..., N]``."""
    return a / a.sum(-1, keepdim=True)


def weights_of_directions(a: Tensor, norms: Tensor) -> Tensor:
    """Return the normalised weights of the directions: zero vectors have none, unless no other vector has any.

    Args:
        a: ``[..., N]``.
        norms: ``[..., N]``, lengths of the task vectors.
    """
    directed = torch.where(norms > 0, a, 0.0)
    return normalised(torch.where(directed.any(-1, keepdim=True), directed, a))


def check_fraction(value: float, key: str) -> None:
    """Refuse a value that is no fraction in (0, 1].

    Args:
        value: of a setting.
        key: name of the setting, for the message.

    Raises:
        UserError: the value is outside (0, 1].
    """
    if not 0 < value <= 1:
        raise UserError(f"{key} is {value}; it is a fraction above 0, at most 1")
