"""Fisher-weighted averaging."""

from torch import Tensor

from modules.errors import UserError
from modules.merging.merge_method import MergeMethod, Preparation, Prepared, Statistics, Stream, normalised, register


@register
class Fisher(MergeMethod):
    """``V^(k) = sum_i a_i F_i^(k) V_i^(k) / sum_i a_i F_i^(k)``, entry by entry.

    Matena & Raffel 2021, arXiv 2111.09832. ``F_i`` is the diagonal empirical Fisher information of expert i on its own
    data (`modules.merging.statistics`). Where it is zero for all experts, the average stands.

    Args:
        rows: number of each expert's training rows from which the information is estimated.

    Example:
        >>> experts = {"sts": "experts/sts", "faq": "experts/faq"}  # with statistics/fisher.safetensors in each
        >>> merge = MergeModule("experts/base", experts, method=Fisher())
    """

    name = "fisher"
    formula = "average weighted by each expert's Fisher information, entry by entry"
    reference = "arXiv 2111.09832"
    statistics = "fisher"

    def __init__(self, rows: int = 512) -> None:
        self.rows = rows

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return ``a / sum(a)``: ``[..., N]``."""
        return normalised(a)

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return a preparation that takes the Fisher information of an entry as its importance.

        Raises:
            UserError: `statistics` is None.
        """
        if statistics is None:
            raise UserError("Fisher needs the Fisher information of every expert; none was collected")

        def prepare(name: str, vectors: Tensor) -> Prepared:
            return Prepared(vectors, statistics(name))

        return prepare
