"""Weighted average of the task vectors."""

from torch import Tensor

from modules.merging.merge_method import MergeMethod, normalised, register


@register
class Average(MergeMethod):
    """``V = sum_i a_i V_i / sum_i a_i``; equal ``a`` give the model soup (Wortsman et al. 2022, arXiv 2203.05482).

    Example:
        >>> Average().coefficients(torch.tensor([1.0, 3.0]), gram=torch.eye(2))
        tensor([0.2500, 0.7500])
    """

    name = "average"
    formula = "sum of a_i V_i, divided by the sum of a_i"
    reference = "arXiv 2203.05482"

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return ``a / sum(a)``: ``[..., N]``."""
        return normalised(a)
