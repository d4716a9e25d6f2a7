"""The k-th largest magnitude of a task vector that is seen one tensor at a time, against a sort of all of it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.merging.magnitudes import global_thresholds, tensor_thresholds

DENSITIES = [0.001, 0.1, 0.2, 0.5, 0.999, 1.0]


class Passes:
    """A stream of task vectors that counts how often it is started."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors, self.count = tensors, 0

    def __call__(self) -> Iterator[tuple[str, Tensor]]:
        self.count += 1
        return ((str(i), tensor) for i, tensor in enumerate(self.tensors))


def obvious(entries: np.ndarray, density: float) -> float:
    return float(np.sort(np.abs(entries))[::-1][max(1, int(density * len(entries))) - 1])


def all_sizes() -> np.ndarray:
    """Every exponent of float32, both signs: from the smallest subnormal to the largest number."""
    bits = np.random.default_rng(0).integers(0, 0x7F800000, 3000, dtype=np.uint32)
    values = bits.view(np.float32)
    values[::2] *= -1
    return values


def rows() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    normal = generator.normal(size=3000).astype(np.float32) * np.float32(1e-3)
    tiny = np.finfo(np.float32).smallest_subnormal
    return {
        "normal": normal,
        "every size": all_sizes(),
        "subnormals": (generator.integers(-500, 500, 3000) * tiny).astype(np.float32),
        "mostly zero": np.where(generator.random(3000) < 0.95, np.float32(0), normal),
        "negative zeros": np.where(generator.random(3000) < 0.5, np.float32(-0.0), normal),
        "all zero": np.zeros(3000, np.float32),
        "duplicates": generator.integers(-3, 4, 3000).astype(np.float32),
        "all the same": np.full(3000, -0.1, np.float32),
        # one after another, so that only the lower half of the bits differs, or just the carry into the upper
        "neighbours": (0x3F800000 + generator.permutation(3000).astype(np.uint32)).view(np.float32),
        "around a carry": (0x3F80FF00 + generator.permutation(3000).astype(np.uint32)).view(np.float32),
    }


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("case", rows())
def test_global_thresholds_are_exact(case: str, density: float) -> None:
    # a second expert with other values, so that the two are not mixed up
    flat = np.stack([rows()[case], rows()["normal"]])
    tensors = [torch.tensor(part) for part in np.split(flat, [1, 1000, 1200], axis=1)]
    thresholds = global_thresholds(Passes(*(t.reshape(2, -1, 1) for t in tensors)), density)
    assert thresholds.dtype == torch.float32
    assert thresholds.tolist() == [obvious(expert, density) for expert in flat]


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("case", rows())
def test_tensor_thresholds_are_exact(case: str, density: float) -> None:
    flat = np.stack([rows()[case], rows()["normal"]])
    thresholds = tensor_thresholds(torch.tensor(flat).reshape(2, 30, 100), density)
    assert thresholds.tolist() == [obvious(expert, density) for expert in flat]


def test_two_passes_are_enough() -> None:
    stream = Passes(torch.randn(2, 50), torch.randn(2, 3, 4))
    global_thresholds(stream, 0.2)
    assert stream.count == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exact_too(dtype: torch.dtype) -> None:
    vectors = torch.tensor(rows()["normal"]).to(dtype)[None]
    expected = obvious(vectors[0].float().numpy(), 0.2)
    assert global_thresholds(Passes(vectors), 0.2).tolist() == [expected]
    assert tensor_thresholds(vectors, 0.2).tolist() == [expected]


def test_at_least_one_entry_is_kept() -> None:
    vectors = torch.tensor([[1.0, -5.0, 3.0]])
    assert global_thresholds(Passes(vectors), 0.01).tolist() == [5.0]
    assert tensor_thresholds(vectors, 0.01).tolist() == [5.0]


def test_a_tensor_that_is_not_contiguous() -> None:
    flat = torch.tensor(rows()["normal"])
    turned = flat.reshape(1, 30, 100).transpose(1, 2)
    assert global_thresholds(Passes(turned), 0.2).tolist() == [obvious(flat.numpy(), 0.2)]


def test_the_vectors_are_left_alone() -> None:
    vectors = torch.tensor(rows()["normal"])[None]
    before = vectors.clone()
    global_thresholds(Passes(vectors), 0.2)
    tensor_thresholds(vectors, 0.2)
    assert torch.equal(vectors, before)
