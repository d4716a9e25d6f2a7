"""The merging kernel and its gradient."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modules.merging import combine as kernel
from modules.merging.combine import attach_coefficients, combine


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def test_combine_is_a_sum() -> None:
    base, vectors, c = random(4, 5), random(3, 4, 5), random(3)
    expected = base + c[0] * vectors[0] + c[1] * vectors[1] + c[2] * vectors[2]
    assert torch.allclose(combine(base, vectors, c), expected, rtol=1e-14, atol=1e-14)


def test_combine_leaves_its_inputs_alone() -> None:
    base, vectors, c = random(4), random(2, 4), random(2)
    before = base.clone(), vectors.clone(), c.clone()
    combine(base, vectors, c).add_(1)
    assert all(torch.equal(now, old) for now, old in zip((base, vectors, c), before, strict=True))


def test_half_precision_is_summed_in_float32() -> None:
    base = torch.ones(3, dtype=torch.bfloat16)
    vectors = torch.full((64, 3), 2.0**-9, dtype=torch.bfloat16)  # each too small to move 1 in bfloat16
    merged = combine(base, vectors, torch.ones(64))
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [1.125] * 3


def test_a_coefficient_too_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        combine(random(4), random(2, 4), random(3))


def test_attached_coefficients_pass_gradcheck() -> None:
    base, vectors, c = random(2, 3), random(4, 2, 3), random(4).requires_grad_()

    def merge(x: Tensor) -> Tensor:
        return attach_coefficients(x, combine(base, vectors, x), vectors).tanh()

    assert torch.autograd.gradcheck(merge, (c,))


def test_the_gradient_is_dot_products() -> None:
    base, vectors, slope = random(2, 3), random(4, 2, 3), random(3, 2).T
    c = random(4).requires_grad_()
    merged = attach_coefficients(c, combine(base, vectors, c), vectors)
    (gradient,) = torch.autograd.grad((merged * slope).sum(), c)
    assert torch.allclose(gradient, torch.stack([(slope * v).sum() for v in vectors]))


def test_a_gradient_in_half_precision_has_the_dtype_of_the_coefficients() -> None:
    vectors, c = random(2, 1000).bfloat16(), random(2).requires_grad_()
    merged = attach_coefficients(c, combine(torch.zeros(1000, dtype=torch.bfloat16), vectors, c), vectors)
    (gradient,) = torch.autograd.grad(merged.float().sum(), c)
    assert gradient.dtype == torch.float64
    assert torch.allclose(gradient, vectors.double().sum(1), rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_autocast_does_not_reach_the_kernel(weighted: bool) -> None:
    """A search takes its gradients within the training step, where autocast is on."""
    base, vectors = random(4, 5).float(), random(3, 4, 5).float()
    importance = importances(3, 4, 5).float() if weighted else None
    c = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def gradient() -> Tensor:
        merged = combine(base, vectors, c.detach(), importance)
        return torch.autograd.grad(attach_coefficients(c, merged, vectors, importance).square().sum(), c)[0]

    expected = gradient()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradient(), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_the_same_in_parts(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, slope, c = random(3, 6, 7), random(7, 6).T, random(3).requires_grad_()
    importance = importances(3, 6, 7) if weighted else None
    merged = combine(random(6, 7), vectors, c, importance)
    gradients = []
    for entries in (1000, 5):
        monkeypatch.setattr(kernel, "CHUNK", entries)
        attached = attach_coefficients(c, merged, vectors, importance)
        gradients.append(torch.autograd.grad((attached * slope).sum(), c)[0])
    assert torch.allclose(*gradients, rtol=1e-12)


class LargestFloat32(TorchDispatchMode):
    """Sees how many entries the largest float32 tensor has that an operation gives."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.float32:
            self.entries = max(self.entries, out.numel())
        return out


@pytest.mark.parametrize("weighted", [False, True])
def test_half_precision_is_not_raised_whole_in_backward(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "CHUNK", 10)
    vectors, c = random(2, 50, 4).bfloat16(), torch.ones(2, requires_grad=True)
    importance = vectors.abs() if weighted else None
    merged = combine(torch.zeros(50, 4, dtype=torch.bfloat16), vectors, c, importance)
    total = attach_coefficients(c, merged, vectors, importance).sum()
    with LargestFloat32() as largest:
        total.backward()
    assert 0 < largest.entries <= 2 * 10


def test_attached_coefficients_are_used_in_many_backward_passes() -> None:
    vectors, c = random(2, 5), random(2).requires_grad_()
    attached = attach_coefficients(c, combine(random(5), vectors, c), vectors)
    (attached.sum() + attached[1]).backward()
    attached[0].backward()
    assert c.grad is not None
    assert torch.allclose(c.grad, vectors.sum(1) + vectors[:, 0] + vectors[:, 1])


def test_attaching_does_not_copy() -> None:
    merged = random(5)
    attached = attach_coefficients(random(2).requires_grad_(), merged, random(2, 5))
    assert attached.data_ptr() == merged.data_ptr()


# With an importance for every entry.


def importances(experts: int, *shape: int) -> Tensor:
    """Positive, over several decades; every fifth entry is zero for the first expert, every seventh for all."""
    values = 10.0 ** (4 * torch.rand(experts, *shape, generator=torch.Generator().manual_seed(1)) - 3).double()
    values.flatten(1)[0, ::5] = 0
    values.flatten(1)[:, ::7] = 0
    return values


def obvious_weighted_mean(vectors: np.ndarray, c: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Entry by entry, from ``[N, entries]``."""
    merged = np.zeros(vectors.shape[1])
    for k in range(vectors.shape[1]):
        divisor = sum(abs(c) * importance[:, k])
        if divisor > 0:
            merged[k] = sum(abs(c)) * sum(c * importance[:, k] * vectors[:, k]) / divisor
        else:
            merged[k] = sum(c * vectors[:, k])
    return merged


@pytest.mark.parametrize("signs", [[1, 1, 1], [1, -1, 1], [-1, -1, -1]])
def test_importances_give_a_weighted_mean(signs: list[int]) -> None:
    base, vectors, f = random(6, 10), random(3, 6, 10), importances(3, 6, 10)
    c = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) * torch.tensor(signs)
    merged = combine(base, vectors, c, f)
    expected = obvious_weighted_mean(vectors.flatten(1).numpy(), c.numpy(), f.flatten(1).numpy())
    assert np.allclose((merged - base).flatten().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_equal_importances_are_a_sum() -> None:
    base, vectors, c = random(4, 5), random(3, 4, 5), random(3)
    some = torch.full_like(vectors, 0.3) * (1 + random(4, 5).abs())
    assert torch.allclose(combine(base, vectors, c, some), combine(base, vectors, c), rtol=1e-12, atol=1e-12)


def test_importances_of_zero_are_a_sum() -> None:
    base, vectors, c = random(4, 5), random(3, 4, 5), random(3)
    merged = combine(base, vectors, c, torch.zeros_like(vectors))
    assert torch.allclose(merged, combine(base, vectors, c), rtol=1e-14, atol=1e-14)


def test_only_the_experts_that_are_important_count() -> None:
    base, vectors, c = random(4), random(2, 4), torch.tensor([0.5, 1.5], dtype=torch.float64)
    first_only = torch.stack([torch.ones(4), torch.zeros(4)]).double()
    assert torch.allclose(combine(base, vectors, c, first_only), base + 2 * vectors[0])


def test_a_negative_coefficient_is_a_negated_vector() -> None:
    base, vectors, f = random(4, 5), random(2, 4, 5), importances(2, 4, 5)
    c, sign = torch.tensor([0.7, 1.2], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    negated = vectors * sign[:, None, None]
    assert torch.equal(combine(base, vectors, c * sign, f), combine(base, negated, c, f))


@pytest.mark.parametrize("importance", [None, importances(3, 4, 5).float()])
def test_coefficients_of_zero_give_the_base_bit_for_bit(importance: Tensor | None) -> None:
    base = random(4, 5, dtype=torch.float32)
    merged = combine(base, random(3, 4, 5, dtype=torch.float32), torch.zeros(3, dtype=torch.float64), importance)
    assert torch.equal(merged, base)


def test_combining_with_importances_leaves_its_inputs_alone() -> None:
    base, vectors, c, f = random(4), random(2, 4), random(2), importances(2, 4)
    before = base.clone(), vectors.clone(), c.clone(), f.clone()
    combine(base, vectors, c, f).add_(1)
    assert all(torch.equal(now, old) for now, old in zip((base, vectors, c, f), before, strict=True))


def test_half_precision_with_importances_is_summed_in_float32() -> None:
    base = torch.ones(3, dtype=torch.bfloat16)
    vectors = torch.full((64, 3), 2.0**-9, dtype=torch.bfloat16)
    merged = combine(base, vectors, torch.ones(64), torch.ones_like(vectors))
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [1.125] * 3


@pytest.mark.parametrize("c", [[0.5, 1.0, 2.0], [0.5, -1.0, 2.0], [-0.5, -1.0, -2.0]])
@pytest.mark.parametrize("f", [importances(3, 6, 10), torch.ones(3, 6, 10).double(), torch.zeros(3, 6, 10).double()])
def test_attached_coefficients_with_importances_pass_gradcheck(f: Tensor, c: list[float]) -> None:
    base, vectors = random(6, 10), random(3, 6, 10)

    def merge(x: Tensor) -> Tensor:
        return attach_coefficients(x, combine(base, vectors, x, f), vectors, f).tanh()

    assert torch.autograd.gradcheck(merge, (torch.tensor(c, dtype=torch.float64, requires_grad=True),))


def test_equal_importances_have_the_gradient_of_a_sum() -> None:
    base, vectors, slope = random(2, 3), random(4, 2, 3), random(3, 2).T
    c = random(4).requires_grad_()
    gradients = [
        torch.autograd.grad((attach_coefficients(c, combine(base, vectors, c, f), vectors, f) * slope).sum(), c)[0]
        for f in (None, torch.full_like(vectors, 0.3))
    ]
    assert torch.allclose(*gradients, rtol=1e-12)


def test_nothing_but_the_coefficients_has_a_gradient() -> None:
    vectors, f, c = random(2, 4).requires_grad_(), importances(2, 4).requires_grad_(), random(2).requires_grad_()
    merged = combine(random(4).requires_grad_(), vectors, c, f)
    assert not merged.requires_grad
    attach_coefficients(c, merged, vectors, f).sum().backward()
    assert c.grad is not None
    assert vectors.grad is None
    assert f.grad is None
