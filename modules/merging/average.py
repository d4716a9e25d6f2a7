"""Weighted average of the task vectors."""

from torch import Tensor

from modules.merging.merge_method import MergeMethod, normalised


class Average(MergeMethod):
    """``V = sum_i a_i V_i / sum_i a_i``; equal ``a`` give the model soup (Wortsman et al. 2022, arXiv 2203.05482)."""

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """``a / sum(a)``: ``[..., N]``."""
        return normalised(a)
