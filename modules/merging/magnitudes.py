"""The k-th largest magnitude of a task vector that is seen one tensor at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from modules.merging.merge_method import Stream

HALF = 16
"""Bits of a float32 that the second of two passes looks at; the first looks at the others, the sign aside."""

CHUNK = 1 << 17
"""Entries that are looked at together: they fit a cache."""

MAGNITUDE = (1 << 31) - 1
"""The bits of a float32 but for its sign."""


def tensor_thresholds(vectors: Tensor, density: float) -> Tensor:
    """Return the smallest magnitude among the largest ``density`` of the entries of one tensor.

    Args:
        vectors: ``[N, *shape]``.
        density: fraction in (0, 1].

    Returns:
        ``[N]``.
    """
    size = vectors[0].numel()
    smallest = size - _kept(size, density) + 1
    return torch.stack([vector.abs().flatten().kthvalue(smallest).values for vector in vectors])


def global_thresholds(stream: Stream, density: float) -> Tensor:
    """Return the thresholds over all entries of all tensors: exact, in two passes, with 65,536 counters per expert.

    The bits of a float that is not negative, read as an integer, are in the order of the floats. The first pass counts
    their upper half and finds in which value of it the threshold lies, the second counts the lower half within it.

    Args:
        stream: gives the task vectors.
        density: fraction in (0, 1].

    Returns:
        ``[N]`` float32.
    """
    counts = _histogram(stream, None)
    kept = _kept(int(counts[0].sum()), density)
    upper, left = zip(*(_find(row, kept) for row in counts), strict=True)
    lower = [_find(row, rest)[0] for row, rest in zip(_histogram(stream, list(upper)), left, strict=True)]
    bits = [(high << HALF) + low for high, low in zip(upper, lower, strict=True)]
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32)


def _kept(size: int, density: float) -> int:
    return max(1, int(density * size))


def _histogram(stream: Stream, upper: list[int] | None) -> Tensor:
    """Return how often each value of the upper half of the bits occurs, or of the lower where the upper is given."""
    counts: Tensor | None = None
    for _, vectors in stream():
        if counts is None:
            counts = torch.zeros(len(vectors), 1 << HALF, dtype=torch.int64)
        for i, vector in enumerate(vectors):
            for values in _upper(vector) if upper is None else [_lower(vector, upper[i])]:
                found = torch.bincount(values.cpu())
                counts[i, : len(found)] += found
    assert counts is not None, "there are no task vectors"
    return counts


def _magnitudes(vector: Tensor) -> Iterator[Tensor]:
    """Yield the bits of the magnitudes, in chunks."""
    for part in vector.detach().flatten().split(CHUNK):
        yield part.float().contiguous().view(torch.int32) & MAGNITUDE


def _upper(vector: Tensor) -> Iterator[Tensor]:
    """Yield the upper half of the bits of the magnitudes, in chunks."""
    for bits in _magnitudes(vector):
        yield bits >> HALF


def _lower(vector: Tensor, upper: int) -> Tensor:
    """Return the lower half of the bits of the magnitudes that have this upper half."""
    return torch.cat([bits[bits >> HALF == upper] & ((1 << HALF) - 1) for bits in _magnitudes(vector)])


def _find(counts: Tensor, kept: int) -> tuple[int, int]:
    """Return the value at which the counts from above reach `kept`, and how many entries of that value are kept."""
    from_above = counts.flip(0).cumsum(0)
    place = int((from_above >= kept).int().argmax())
    before = int(from_above[place - 1]) if place else 0
    return len(counts) - 1 - place, kept - before
