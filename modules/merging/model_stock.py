"""Model Stock: the average of the task vectors, pulled back towards the base as far as their angle says."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.errors import UserError
from modules.merging.merge_method import MergeMethod, outer, register, weights_of_directions


@register
class ModelStock(MergeMethod):
    """``V = t * sum_i w_i V_i``, the point nearest to the centre of the models on the line to their average.

    Jang et al. 2024, arXiv 2403.19522. Fine-tuned models are taken to be a common centre plus noise of equal size and
    at right angles, so the cosine between two task vectors is the part of their length that is no noise:
    ``t = cos / (q + (1 - q) cos)`` with ``w = a / sum(a)``, ``q = sum_i w_i^2`` and ``cos`` the mean over all pairs.
    Equal ``a`` have ``q = 1 / N`` and give the paper's ``t = N cos / (1 + (N - 1) cos)``. Nothing but angles is needed.

    Where ``a`` is 0 but for one expert, that model is pulled back by ``t = cos``, its angle to the others: other runs
    of the same training. Of one expert alone no angle is known, and it is refused. Zero vectors take no part; where
    only one is left it stays as it is. A mean cosine of 0 or less leaves the base. Learned, the scale would take the
    place of ``t``, which is `Average`.

    Example:
        >>> ModelStock().coefficients(torch.ones(2), gram=torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        tensor([0.3333, 0.3333])
    """

    name = "model_stock"
    formula = "average times t, from the mean cosine: t = N cos / (1 + (N - 1) cos)"
    reference = "arXiv 2403.19522"
    learned = False
    uses_angles = True

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the weights of the average times ``t``: ``[..., N]``."""
        weights = weights_of_directions(a, gram.diagonal(dim1=-2, dim2=-1))
        cos, concentration = _mean_cosine(gram), weights.square().sum(-1, keepdim=True)
        return weights * cos / (concentration + (1 - concentration) * cos)

    def places(self, experts: Sequence[str]) -> list[int]:
        """Return the indices of the experts in their order.

        Raises:
            UserError: there is one expert.
        """
        if len(experts) == 1:
            raise UserError(
                f"ModelStock takes the angle between task vectors, and '{experts[0]}' is one; "
                "to pull it back, add other runs of its training with the coefficient 0"
            )
        return super().places(experts)


def _mean_cosine(gram: Tensor) -> Tensor:
    """Return the mean cosine over pairs of vectors that are not zero, at least 0; 1 without a pair: ``[..., 1]``."""
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    some = norms > 0
    cosines = gram / outer(norms, norms).where(outer(some, some), 1.0)
    count = some.sum(-1).to(gram)
    pairs, total = count * (count - 1), cosines.sum((-2, -1)) - count
    return torch.where(pairs > 0, total / pairs.where(pairs > 0, 1.0), 1.0).clamp(0, 1)[..., None]
