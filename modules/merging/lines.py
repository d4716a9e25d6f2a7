"""LiNeS: scale the merged task vector by depth, on top of any method."""

from torch import Tensor

from modules.errors import UserError
from modules.merging.granularity import depths_of
from modules.merging.merge_method import MergeMethod, Preparation, Prepared, Statistics, Stream, register
from modules.merging.method_wrapper import MethodWrapper
from modules.merging.slerp import Slerp


@register
class Lines(MethodWrapper):
    """The task vectors are multiplied with ``alpha`` at the embeddings, linearly up to ``alpha + beta`` at the end.

    Wang et al. 2024, arXiv 2410.17146: shallow layers, which hold what tasks have in common, stay nearer to the base.
    The method under it prepares the task vectors first, so that of average, task arithmetic, TIES, Fisher and RegMean
    the merged task vector is scaled, as in the paper. Methods with angles take them between the scaled vectors, which
    makes a difference only where a group of coefficients spans several layers. Layers are counted as in `groups_of`;
    tensors after the last layer are scaled as that.

    Args:
        method: combines the task vectors; SLERP by default.
        alpha: factor of the embeddings and the first layer.
        beta: what is added to it up to the last layer.

    Raises:
        UserError: a factor would be negative, or all of them 0.

    Example:
        >>> method = Lines(Ties(), alpha=0.3, beta=0.7)
        >>> merge = MergeModule("experts/base", {"sts": "experts/sts", "faq": "experts/faq"}, method)
    """

    name = "lines"
    formula = "another method, its result times alpha in the first layer, linearly up to alpha + beta in the last"
    reference = "arXiv 2410.17146"

    def __init__(self, method: MergeMethod | None = None, alpha: float = 0.5, beta: float = 0.5) -> None:
        if not (alpha >= 0 and alpha + beta >= 0 and max(alpha, alpha + beta) > 0):
            raise UserError(
                f"alpha and alpha + beta of Lines are {alpha} and {alpha + beta}; none is below 0, one above"
            )
        super().__init__(method or Slerp())
        self.alpha = alpha
        self.beta = beta

    def preparation(self, stream: Stream, statistics: Statistics | None = None) -> Preparation:
        """Return the preparation of `method`, its task vectors scaled by depth."""
        depths = depths_of(name for name, _ in stream())
        prepare = self.method.preparation(stream, statistics)

        def prepare_and_scale(name: str, vectors: Tensor) -> Prepared:
            prepared = prepare(name, vectors)
            return prepared._replace(vectors=prepared.vectors.mul_(self.alpha + self.beta * depths[name]))

        return prepare_and_scale
