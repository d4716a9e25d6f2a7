"""Task arithmetic: free linear weights."""

import torch
from torch import Tensor

from modules.merging.merge_method import MergeMethod, register


@register
class TaskArithmetic(MergeMethod):
    """``V = sum_i a_i V_i`` (Ilharco et al. 2022, arXiv 2212.04089).

    Learned, it is the baseline "learned linear": N free numbers that include the scale, so there is none beside them
    and no regulariser on it. It starts at the soup, ``a_i = 1/N``.

    Example:
        >>> TaskArithmetic().coefficients(torch.tensor([0.5, -0.25]), gram=torch.eye(2))
        tensor([ 0.5000, -0.2500])
    """

    name = "task_arithmetic"
    formula = "sum of a_i V_i"
    reference = "arXiv 2212.04089"
    has_scale = False

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return ``a`` itself: ``[..., N]``."""
        return a

    def initial(self, experts: int) -> Tensor:
        """Return ``1/N`` for each expert: ``[N]`` float64."""
        return torch.full((experts,), 1 / experts, dtype=torch.float64)
