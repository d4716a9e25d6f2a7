"""NuSLERP: spherical interpolation between two task vectors."""

from collections.abc import Sequence

from torch import Tensor

from modules.errors import UserError
from modules.merging.merge_method import MergeMethod, register
from modules.merging.slerp import Slerp


@register
class NuSlerp(MergeMethod):
    """SLERP of two task vectors at ``t = a_2 / (a_1 + a_2)``: mergekit's ``nuslerp`` with a base model.

    It is `Slerp` of two, which the paper chains over more; one expert is itself.

    Example:
        >>> NuSlerp().coefficients(torch.ones(2), gram=torch.eye(2))
        tensor([0.7071, 0.7071])
    """

    name = "nu_slerp"
    formula = "spherical interpolation of two task vectors at a_2 / (a_1 + a_2)"
    reference = "https://github.com/arcee-ai/mergekit"
    uses_angles = True

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        """Return the weights of the interpolation: ``[..., N]``.

        Raises:
            UserError: there are more than two task vectors.
        """
        _refuse_more_than_two(a.shape[-1])
        return Slerp().positive_coefficients(a, gram)

    def places(self, experts: Sequence[str]) -> list[int]:
        """Return the indices of the experts in their order.

        Raises:
            UserError: there are more than two experts.
        """
        _refuse_more_than_two(len(experts))
        return super().places(experts)


def _refuse_more_than_two(experts: int) -> None:
    if experts > 2:
        raise UserError(f"NuSlerp is between two experts, not {experts}; use spherical_mean, karcher or slerp for more")
