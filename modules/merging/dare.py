"""DARE: drop entries of the task vectors at random and rescale the others, on top of any method."""

from torch import Tensor

from modules.merging.dropped_entries import DroppedEntries, uniform_draws
from modules.merging.merge_method import MergeMethod, check_fraction, register
from modules.merging.slerp import Slerp


@register
class Dare(DroppedEntries):
    """Every entry of every task vector is kept with probability ``density`` and divided by it, else zero.

    Yu et al. 2023, arXiv 2311.03099. Entries are drawn one by one (`uniform_draws`), so it makes no difference whether
    they are drawn for all tensors together or for each.

    Args:
        method: merges the task vectors with their remaining entries; SLERP by default.
        density: probability with which an entry is kept.
        seed: of the draw.

    Raises:
        UserError: the density is no fraction in (0, 1].

    Example:
        >>> method = Dare(Ties(density=0.5), density=0.1)
        >>> merge = MergeModule("experts/base", {"sts": "experts/sts", "faq": "experts/faq"}, method)
    """

    name = "dare"
    formula = "drop entries at random, divide the others by the fraction kept, then another method"
    reference = "arXiv 2311.03099"

    def __init__(self, method: MergeMethod | None = None, density: float = 0.5, seed: int = 0) -> None:
        check_fraction(density, "density of Dare")
        super().__init__(method or Slerp())
        self.density = density
        self.seed = seed

    def drop(self, name: str, vectors: Tensor) -> Tensor:
        """Drop entries and rescale the others."""
        for vector, draw in zip(vectors, uniform_draws(self.seed, name, vectors), strict=True):
            vector.mul_((draw < self.density).to(vector) / self.density)
        return vectors
