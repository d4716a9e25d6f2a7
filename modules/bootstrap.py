"""Significance of a difference between two models: the bootstrap over the examples that both were scored on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

RESAMPLES = 1000
CHUNK = 2**19
"""Numbers ranked at a time, which bounds the memory."""


class Interval(NamedTuple):
    """A percentile interval of resampled values."""

    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Return both bounds in a format of numbers: ``-0.40 to +4.14`` with ``+.2f``."""
        return f"{self.low:{spec}} to {self.high:{spec}}"


def interval(resampled: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Return the percentile interval of resampled values.

    Args:
        resampled: ``[resamples]``.
        level: fraction of the values within it.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mean_differences(a: ArrayLike, b: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Return bootstrap resamples of ``mean(b) - mean(a)``: ``[resamples]``.

    Args:
        a: ``[examples]``, a model's value per example, such as the score of a query.
        b: ``[examples]``, the other model's.
        resamples: number of resamples; each draws as many examples, with replacement.
        seed: of the draws.
    """
    difference = np.asarray(b, float) - np.asarray(a, float)
    return np.concatenate([difference[rows].mean(1) for rows in _draws(len(difference), resamples, seed)])


def spearman_differences(
    gold: ArrayLike, a: ArrayLike, b: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Return bootstrap resamples of ``spearman(gold, b) - spearman(gold, a)``: ``[resamples]``.

    Args:
        gold: ``[examples]``, the reference score of each.
        a: ``[examples]``, similarities by a model.
        b: ``[examples]``, similarities by the other.
        resamples: number of resamples; each draws as many examples, with replacement.
        seed: of the draws.
    """
    values = [np.asarray(x, float) for x in (gold, a, b)]
    parts = []
    for rows in _draws(len(values[0]), resamples, seed):
        target, first, second = (_standardised(rankdata(x[rows], axis=1)) for x in values)
        parts.append((target * second).mean(1) - (target * first).mean(1))
    return np.concatenate(parts)


def _draws(size: int, resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Draw the places of the examples of every resample, in chunks ``[resamples of the chunk, size]``."""
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK // size)
    return [generator.integers(0, size, (min(chunk, resamples - start), size)) for start in range(0, resamples, chunk)]


def _standardised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each row to mean 0 and standard deviation 1; a constant row, which correlates with nothing, becomes 0."""
    centred = rows - rows.mean(1, keepdims=True)
    deviation = centred.std(1, keepdims=True)
    return centred / np.where(deviation == 0, 1, deviation)
