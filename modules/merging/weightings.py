"""Fixed weightings: coefficients of the task vectors from the experts' sizes, norms or losses, with nothing learned.

They are the baselines that a learned position is measured against. Each gives `c` for
``theta_0 + sum_i c_i V_i``, see `modules.merging.combine`.

Shapes: N experts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class FixedWeighting(NamedTuple):
    """A fixed weighting as tables show it.

    Args:
        name: of the merge in recipes and tables.
        key: the value of ``weighting`` in a recipe.
        formula: the coefficients in one line.
        reference: an arXiv number, or empty.
        needs: beside the models.
    """

    name: str
    key: str
    formula: str
    reference: str
    needs: str


WEIGHTINGS = (
    FixedWeighting("size_weighted", "size", "c_i in proportion to the expert's rows", "", "row counts"),
    FixedWeighting("inverse_norm", "inverse_norm", "c_i in proportion to 1 / norm of V_i", "", "norms"),
    FixedWeighting(
        "lm_cocktail", "lm_cocktail", "c = softmax(-loss / temperature)", "arXiv 2311.13534", "probe losses"
    ),
    FixedWeighting(
        "greedy_soup", "greedy", "mean of the experts that help, best first", "arXiv 2203.05482", "probe losses"
    ),
)
"""The fixed weightings, which recipes name as merges."""


def size_weighted(sizes: Sequence[float] | Tensor) -> Tensor:
    """Return ``c_i = n_i / sum_j n_j``: more data, more weight.

    Args:
        sizes: ``[N]``, number of examples that each expert was trained on.

    Returns:
        ``[N]`` float64.
    """
    n = torch.as_tensor(sizes, dtype=torch.float64)
    return n / n.sum()


def inverse_norm(gram: Tensor, scale: float = 1.0) -> Tensor:
    """Return ``c_i = s * (1 / |V_i|) / sum_j (1 / |V_j|)``: every expert moves the base equally far.

    Zero vectors take no part; if all are zero, all count alike.

    Args:
        gram: ``[N, N]``, ``<V_i, V_j>``.
        scale: ``s``, the sum of the coefficients.

    Returns:
        ``[N]`` float64.
    """
    norms = gram.double().diagonal().sqrt()
    some = norms > 0
    inverse = torch.where(some, 1 / norms.where(some, 1.0), 0.0) if some.any() else torch.ones_like(norms)
    return scale * inverse / inverse.sum()


def lm_cocktail(losses: Sequence[float] | Tensor, temperature: float, base_loss: float | None = None) -> Tensor:
    """Return ``c = softmax(-L / T)``: a lower loss, more weight (LM-Cocktail, Xiao et al. 2023, arXiv 2311.13534).

    Args:
        losses: ``[N]``, each expert's loss on a few rows of the target tasks.
        temperature: ``T``, positive; a small one gives nearly all to the best expert.
        base_loss: loss of the base, which makes the base a member, too. Its share moves nothing, so the coefficients
            of the experts then sum to less than 1. None: the base is no member.

    Returns:
        ``[N]`` float64.
    """
    members = torch.as_tensor(losses, dtype=torch.float64)
    experts = len(members)
    if base_loss is not None:
        members = torch.cat([members, members.new_tensor([base_loss])])
    return torch.softmax(-members / temperature, 0)[:experts]


def greedy_soup(losses: Sequence[float] | Tensor, evaluate: Callable[[Tensor], float]) -> Tensor:
    """Return the mean of the experts that help, tried from the best (Wortsman et al. 2022, arXiv 2203.05482, recipe 1).

    Args:
        losses: ``[N]``, each expert's probe loss; the lowest is tried first.
        evaluate: maps coefficients ``[N]`` float64 to the loss of their model; called once per expert.

    Returns:
        ``[N]`` float64: ``1/k`` for the k experts that were kept, 0 for the others.
    """
    order = torch.as_tensor(losses, dtype=torch.float64).argsort(stable=True).tolist()
    kept = torch.zeros(len(order), dtype=torch.float64)
    lowest = float("inf")
    for expert in order:
        candidate = kept.clone()
        candidate[expert] = 1.0
        loss = evaluate(candidate / candidate.sum())
        if loss < lowest:
            kept, lowest = candidate, loss
    return kept / kept.sum()
