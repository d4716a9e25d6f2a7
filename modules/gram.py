"""Gram matrices of task vectors, tensor by tensor.

Shapes: N experts, G groups of tensors.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

CHUNK = 1 << 20
"""Entries per expert that are held in float64 at a time."""


def gram_of(vectors: Tensor, spare: Tensor | None = None) -> Tensor:
    """Return the Gram matrix ``G[i, j] = <V_i, V_j>`` of one tensor, accumulated in float64.

    Args:
        vectors: ``[N, *shape]``.
        spare: float64 of at least ``N * min(CHUNK, entries)`` entries on the device of `vectors`, which a caller with
            many tensors has ready: to get new memory from the system takes longer than the sums; None: made here.

    Returns:
        ``[N, N]`` float64, on the CPU.
    """
    vectors = vectors.detach().flatten(1)
    if spare is None:
        spare = vectors.new_empty(len(vectors) * min(CHUNK, vectors.shape[1]), dtype=torch.float64)
    gram = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=vectors.device)
    for part in vectors.split(CHUNK, dim=1):
        exact = spare[: part.numel()].view(part.shape).copy_(part)
        gram += exact @ exact.T
    return gram.cpu()


def sum_by_group(grams: Mapping[str, Tensor], groups: Mapping[str, str], labels: Iterable[str]) -> Tensor:
    """Return the sum of the Gram matrices of the tensors of each group.

    Tensors are added in the order of their names, so that every route gives the same bits.

    Args:
        grams: tensor name to ``[N, N]``.
        groups: tensor name to group.
        labels: the groups, in the order of the result.

    Returns:
        ``[G, N, N]`` float64.
    """
    sums = {label: torch.zeros_like(next(iter(grams.values()))) for label in labels}
    for name in sorted(grams):
        sums[groups[name]] += grams[name]
    return torch.stack(list(sums.values()))
