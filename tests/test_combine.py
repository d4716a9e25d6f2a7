"""The merging kernel and its gradient."""

import pytest
import torch
from torch import Tensor

from modules.combine import attach_coefficients, combine


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


def test_attaching_does_not_copy() -> None:
    merged = random(5)
    attached = attach_coefficients(random(2).requires_grad_(), merged, random(2, 5))
    assert attached.data_ptr() == merged.data_ptr()
