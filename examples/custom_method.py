"""Merges two models on disk by a method of one's own: the longer a task vector, the less it counts.

python examples/custom_method.py BASE A B merged
"""

import sys

from torch import Tensor

from modules import MergeMethod, Plan, merge_files
from modules.merging.merge_method import normalised


class ShortestFirst(MergeMethod):
    """``V = sum_i w_i V_i`` with ``w_i`` in proportion to ``a_i / |V_i|``."""

    uses_angles = True  # the norms, on the diagonal of the Gram matrix, take a pass over the task vectors

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the weights: ``[..., N]``."""
        norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        return normalised(a / norms.where(norms > 0, 1.0))


base, first, second, out = sys.argv[1:]
record = merge_files(Plan(base, {"first": first, "second": second}, ShortestFirst()), out)
print(record["coefficients"])
