"""The suspicion that experts equal the base or each other, or have another base: cheap while models are merged.

Shapes: N experts.
"""

import itertools

import torch
from torch import Tensor

from modules.checkpoints.checkpoint_io import CHUNK
from modules.compatibility.safety import SAME, UNRELATED
from modules.gram import gram_of

HEAD = 4096
"""Entries of a tensor, its first, that tell task vectors apart: a lower bound of their distance."""

MARGIN = 1.1
"""Factor of what a bound may be wrong by: sums of float32 within a chunk are good to a thousandth."""


class Suspicion:
    """A check of task vectors that passes only what `refuse_suspicious` would pass, for a fraction of its time.

    Args:
        experts: their number.
    """

    def __init__(self, experts: int) -> None:
        self._base = 0.0
        self._squares = [0.0] * experts
        self._heads = torch.zeros(experts, experts, dtype=torch.float64)

    def add(self, base: Tensor, vectors: Tensor) -> None:
        """Add a tensor of the base and its task vectors ``[N, *shape]``; a second pass over all tensors is no harm."""
        self._base += squared_length(base)
        for i, vector in enumerate(vectors):
            self._squares[i] += squared_length(vector)
        self._heads += gram_of(vectors.flatten(1)[:, :HEAD])

    def is_clear(self) -> bool:
        """Return whether no expert can be refused; if not, exact Gram matrices have to tell."""
        squares = self._squares
        longest = UNRELATED**2 * self._base / MARGIN
        if not all(0 < square < longest for square in squares):
            return False
        heads = self._heads.diagonal()
        return all(
            heads[i] + heads[j] - 2 * self._heads[i, j] > MARGIN * SAME * (squares[i] + squares[j])
            for i, j in itertools.combinations(range(len(squares)), 2)
        )


def squared_length(tensor: Tensor) -> float:
    """Return the sum of the squares of a tensor's entries, each chunk added up in float32."""
    return sum(float(torch.dot(part, part)) for part in tensor.view(-1).split(CHUNK))
