"""The base class of methods that change task vectors and leave their merge to any other method."""

from collections.abc import Sequence

from torch import Tensor

from modules.merging.merge_method import MergeMethod, Preparation, Statistics, Stream


class MethodWrapper(MergeMethod):
    """A change of the task vectors on top of a merge method, which has the coefficients.

    Args:
        method: the method underneath.
    """

    def __init__(self, method: MergeMethod) -> None:
        self.method = method
        self.learned = method.learned
        self.has_scale = method.has_scale
        self.uses_angles = method.uses_angles
        self.statistics, self.rows = method.statistics, method.rows
        self.order = method.order

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the coefficients of `method`: ``[..., N]``."""
        return self.method.positive_coefficients(a, gram)

    def initial(self, experts: int) -> Tensor:
        """Return the start of `method`: ``[N]``."""
        return self.method.initial(experts)

    def places(self, experts: Sequence[str]) -> list[int]:
        """Return the indices of the experts in the order in which `method` takes them.

        Raises:
            UserError: `method` does not take these experts.
        """
        return self.method.places(experts)

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return the preparation of `method`."""
        return self.method.preparation(stream, statistics)
