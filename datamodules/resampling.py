"""Resampled data sets: how many rows each gets, and which."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datamodules.batching import apportion
from datamodules.task_data import TaskData
from modules.errors import UserError

Length = Literal["total", "max"]
"""What stays as it is when data sets are resampled; see `resampled_sizes`."""


def resampled_sizes(sizes: Sequence[int], weights: Sequence[float], length: Length) -> list[int]:
    """Rows of every data set after resampling in proportion to the weights (arXiv 2410.15035, section 4).

    Args:
        sizes: rows as they are.
        weights: 3 and 1 for "three rows of the first for one of the second"; of any length.
        length: ``total``: all together have as many rows as before, to the row (largest remainder). ``max``: the one
            with the largest weight gets as many rows as the largest has now, the others in proportion, rounded.

    Raises:
        UserError: a weight is not positive, or so small that its data set would get no row.
    """
    if min(weights) <= 0:
        raise UserError(f"the weights of resampling are {list(weights)}; each must be above 0")
    if length == "total":
        counts = apportion(sum(sizes), weights)
    else:
        counts = [round(max(sizes) * weight / max(weights)) for weight in weights]
    if min(counts) == 0:
        raise UserError(f"resampling {list(sizes)} rows by {list(weights)} leaves a data set without rows: {counts}")
    return counts


def resample(data: TaskData, rows: int, seed: int) -> TaskData:
    """A data set with so many rows: all of them as often as they fit in whole, and a random choice for the rest.

    Args:
        data: as it is.
        rows: how many there will be, copies included.
        seed: of the choice.
    """
    copies, rest = divmod(rows, len(data))
    chosen = np.random.default_rng(seed).permutation(len(data))[:rest]
    return data.subset(np.concatenate([np.tile(np.arange(len(data)), copies), np.sort(chosen)]))
