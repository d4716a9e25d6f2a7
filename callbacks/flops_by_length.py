"""Operations of a step, told from a few steps that were counted."""

from typing import Any

import numpy as np

from modules.encoding.by_length import parts_by_length
from modules.losses.task_batch import TaskBatch

Kind = tuple[Any, ...]
"""Loss, columns and rows of the batches of a step: equal for steps that differ in the lengths of their texts only."""
Size = tuple[int, int, int]
"""1, tokens with their padding, and the sum over texts of the square of their tokens."""


class FlopsByLength:
    """Counts operations of steps by kind and size, and tells those of further steps.

    Of texts of ``L`` tokens each, a transformer's matrix products take a number of operations in proportion to ``L``,
    its attention to ``L^2``, and comparing embeddings always as many. So three different steps of a kind that were
    counted tell all others of this kind exactly.
    """

    def __init__(self) -> None:
        self._counted: dict[Kind, list[tuple[Size, int]]] = {}

    def __call__(self, kind: Kind, size: Size) -> int | None:
        """Return the operations that a step takes; None if the steps counted so far do not tell."""
        counted = self._counted.get(kind, [])
        if not counted:
            return None
        sizes = np.array([known for known, _ in counted], dtype=float) / np.array(size)
        shares = np.linalg.lstsq(sizes.T, np.ones(3), rcond=None)[0]
        if not np.allclose(shares @ sizes, 1, rtol=0, atol=1e-9):
            return None
        return round(float(shares @ np.array([flops for _, flops in counted], dtype=float)))

    def add(self, kind: Kind, size: Size, flops: int) -> None:
        """Add a step that was counted."""
        self._counted.setdefault(kind, []).append((size, flops))

    def state_dict(self) -> dict[Kind, list[tuple[Size, int]]]:
        """Return all counts."""
        return {kind: list(counted) for kind, counted in self._counted.items()}

    def load_state_dict(self, state: dict[Kind, list[tuple[Size, int]]]) -> None:
        """Go on from the counts of a checkpoint."""
        self._counted = {kind: list(counted) for kind, counted in state.items()}


def kind_of(batches: list[TaskBatch]) -> Kind:
    """Return the loss, columns and rows of each batch of a step."""
    return tuple((batch.loss.name, len(batch.features), len(batch)) for batch in batches)


def size_of(batches: list[TaskBatch]) -> Size:
    """Return the size of all batches of a step together, in the parts that they are embedded in."""
    columns = [column for batch in batches for column in batch.features]
    parts = [(len(rows), length) for column in columns for rows, length in parts_by_length(column)]
    return 1, sum(rows * length for rows, length in parts), sum(rows * length**2 for rows, length in parts)
