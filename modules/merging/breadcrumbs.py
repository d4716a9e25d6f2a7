"""Model Breadcrumbs: drop the largest and the smallest entries of the task vectors, on top of any method."""

from torch import Tensor

from modules.errors import UserError
from modules.merging.dropped_entries import DroppedEntries
from modules.merging.merge_method import MergeMethod, check_fraction, register
from modules.merging.task_arithmetic import TaskArithmetic


@register
class Breadcrumbs(DroppedEntries):
    """In every tensor, each task vector loses its outliers and its smallest entries; the others stay as they are.

    Davari & Belilovsky 2023, arXiv 2312.06795, which adds up what is left: task arithmetic, the default. Entries that
    tie with a bound are kept.

    Args:
        method: merges what is left of the task vectors; task arithmetic by default.
        density: fraction of the entries of a tensor that are kept.
        gamma: fraction of the entries of a tensor that are dropped as outliers, the largest first; no more than
            ``1 - density``.

    Raises:
        UserError: the density is no fraction in (0, 1], or `gamma` none in [0, 1).

    Example:
        >>> vectors = torch.tensor([[4.0, -3.0, 2.0, 1.0]])
        >>> Breadcrumbs(density=0.5, gamma=0.25).drop("weight", vectors)
        tensor([[ 0., -3.,  2.,  0.]])
    """

    name = "breadcrumbs"
    formula = "drop the largest and the smallest entries of each tensor, then another method"
    reference = "arXiv 2312.06795"

    def __init__(self, method: MergeMethod | None = None, density: float = 0.1, gamma: float = 0.01) -> None:
        check_fraction(density, "density of Breadcrumbs")
        if not 0 <= gamma < 1:
            raise UserError(f"gamma of Breadcrumbs is {gamma}; it is a fraction from 0, below 1")
        super().__init__(method or TaskArithmetic())
        self.density = density
        self.gamma = gamma

    def drop(self, name: str, vectors: Tensor) -> Tensor:
        """Drop the entries outside the bounds."""
        for vector in vectors:
            sizes = vector.abs()
            smallest, largest = self._bounds(sizes.flatten())
            vector.masked_fill_((sizes < smallest) | (sizes > largest), 0.0)
        return vectors

    def _bounds(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest magnitude that are kept."""
        kept = max(1, int(self.density * sizes.numel()))
        outliers = min(int(self.gamma * sizes.numel()), sizes.numel() - kept)
        last = sizes.numel() - outliers
        return sizes.kthvalue(last - kept + 1).values, sizes.kthvalue(last).values
