"""What a merge method is."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class MergeMethod(ABC):
    """A merge whose result is a linear combination of the task vectors, ``V = sum_i c_i V_i``.

    A method maps its free numbers ``a`` to the coefficients ``c``; the map may look at the Gram matrix
    ``G[i, j] = <V_i, V_j>`` and is differentiable in ``a``, which is all that Self Positioning needs.
    """

    has_scale: bool = True
    """Whether the direction leaves the length free, so that a scale ``lambda`` is learned beside it."""

    order: list[str] | None = None
    """The experts' names in the order of a merge that depends on it; None: as they come."""

    @abstractmethod
    def coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """The coefficients of the task vectors, before the scale.

        Args:
            a: ``[N]``, positive.
            gram: ``[N, N]``, ``<V_i, V_j>``.

        Returns:
            ``[N]``.
        """

    def initial(self, experts: int) -> Tensor:
        """The ``a`` to start from: ``[N]``, all ones unless a method says otherwise."""
        return torch.ones(experts, dtype=torch.float64)
