"""DELLA: drop entries of the task vectors at random, small ones more often, on top of any method."""

import torch
from torch import Tensor

from modules.errors import UserError
from modules.merging.dropped_entries import DroppedEntries, uniform_draws
from modules.merging.merge_method import MergeMethod, check_fraction, register
from modules.merging.ties import Ties


@register
class Della(DroppedEntries):
    """Every entry is kept with a probability that rises with its rank in its row, and divided by it, else zero.

    Deep et al. 2024, arXiv 2406.11617: of the magnitudes of a row (the last dimension) the smallest entry is kept with
    probability ``density - epsilon / 2``, the largest with ``density + epsilon / 2``, those between in equal steps. The
    paper then elects a sign and averages the entries that agree: TIES that trims nothing, the default. Without an
    `epsilon` it is `Dare`, with the same draws (`uniform_draws`).

    Args:
        method: merges the task vectors with their remaining entries; ``Ties(density=1.0)`` by default.
        density: mean probability with which an entry is kept.
        epsilon: difference of the probabilities of the largest and the smallest entry of a row.
        seed: of the draw.

    Raises:
        UserError: a probability would be outside (0, 1].

    Example:
        >>> method = Della(TaskArithmetic(), density=0.3, epsilon=0.2)
        >>> merge = MergeModule("experts/base", {"sts": "experts/sts", "faq": "experts/faq"}, method)
    """

    name = "della"
    formula = (
        "drop entries at random, small ones more often, divide the others by their probability, then another method"
    )
    reference = "arXiv 2406.11617"

    def __init__(
        self, method: MergeMethod | None = None, density: float = 0.5, epsilon: float = 0.2, seed: int = 0
    ) -> None:
        check_fraction(density, "density of Della")
        least, most = density - epsilon / 2, density + epsilon / 2
        if not (epsilon >= 0 and least > 0 and most <= 1):
            raise UserError(
                f"epsilon of Della is {epsilon}: it is at least 0, and entries are kept with probabilities from "
                f"density - epsilon / 2 to density + epsilon / 2, here {least:g} to {most:g}, above 0 and at most 1"
            )
        super().__init__(method or Ties(density=1.0))
        self.density = density
        self.epsilon = epsilon
        self.seed = seed

    def drop(self, name: str, vectors: Tensor) -> Tensor:
        """Drop entries and rescale the others."""
        for vector, draw in zip(vectors, uniform_draws(self.seed, name, vectors), strict=True):
            probabilities = self._probabilities(vector)
            vector.mul_(draw.to(vector) < probabilities).div_(probabilities)
        return vectors

    def _probabilities(self, vector: Tensor) -> Tensor:
        """Return the probability with which each entry is kept: ``[*shape]``."""
        if vector.ndim == 0:
            return torch.full_like(vector, self.density)
        last = vector.shape[-1] - 1
        rank = vector.abs().argsort(dim=-1, stable=True).argsort(-1).to(vector.dtype)
        return self.density + self.epsilon * (rank - last / 2) / max(1, last)
