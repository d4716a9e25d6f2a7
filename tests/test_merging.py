"""Merge methods against the obvious version on whole flat vectors."""

import math

import numpy as np
import pytest
import torch

from modules import Average, MergeMethod, Slerp, TaskArithmetic
from modules.combine import attach_coefficients, combine
from modules.position import Position

Vector = np.ndarray


def flat_vectors(experts: int, seed: int = 0) -> Vector:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(experts, 200)) * generator.uniform(0.5, 2, size=(experts, 1))


def slerp(u: Vector, v: Vector, s: float) -> Vector:
    alpha = math.acos(u @ v / math.sqrt((u @ u) * (v @ v)))
    return (math.sin((1 - s) * alpha) * u + math.sin(s * alpha) * v) / math.sin(alpha)


def obvious_slerp(vectors: Vector, a: list[float]) -> Vector:
    merged = vectors[0]
    for k in range(1, len(a)):
        merged = slerp(merged, vectors[k], a[k] / (sum(a[:k]) / k + a[k]))
    return merged


def obvious_average(vectors: Vector, a: list[float]) -> Vector:
    return sum(weight * v for weight, v in zip(a, vectors, strict=True)) / sum(a)


def obvious_arithmetic(vectors: Vector, a: list[float]) -> Vector:
    return sum(weight * v for weight, v in zip(a, vectors, strict=True))


METHODS = {
    "slerp": (Slerp(), obvious_slerp),
    "average": (Average(), obvious_average),
    "arithmetic": (TaskArithmetic(), obvious_arithmetic),
}


def gram_of(vectors: Vector) -> torch.Tensor:
    return torch.tensor(vectors @ vectors.T)


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("name", METHODS)
def test_a_position_equals_the_flat_version(name: str, experts: int) -> None:
    method, obvious = METHODS[name]
    vectors = flat_vectors(experts)
    a = np.random.default_rng(1).uniform(0.3, 3, experts).tolist()
    base = np.random.default_rng(2).normal(size=200)
    position = Position(method, gram_of(vectors))
    with torch.no_grad():
        position.raw_a.copy_(torch.tensor(a).expm1().log())
        position.raw_scale.fill_(math.log(math.expm1(0.7)))
    c = position.coefficients().detach()
    scale = 0.7 if method.has_scale else 1.0
    merged = combine(torch.tensor(base), torch.tensor(vectors), c)
    expected = base + scale * obvious(vectors, a)
    assert np.abs(merged.numpy() - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_equal_finite_differences(name: str, experts: int) -> None:
    method, gram = METHODS[name][0], gram_of(flat_vectors(experts))
    a = torch.rand(experts, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: method.coefficients(x, gram), (a,))


def degenerate() -> dict[str, Vector]:
    u, v, w = flat_vectors(3)
    return {
        "identical": np.stack([u, u, v]),
        "zero": np.stack([u, np.zeros_like(u), v]),
        "first zero": np.stack([np.zeros_like(u), u, v]),
        "all zero": np.zeros((3, 200)),
        "parallel": np.stack([u, 3 * u, w]),
        "antiparallel": np.stack([u, -u, w]),
        "nearly identical": np.stack([u, u + 1e-9 * v, w]),
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("method", [Slerp(), Average(), TaskArithmetic()])
def test_degenerate_vectors_have_finite_gradients(method: MergeMethod, case: str) -> None:
    a = torch.tensor([0.8, 1.0, 1.3], dtype=torch.float64, requires_grad=True)
    c = method.coefficients(a, gram_of(degenerate()[case]))
    (gradient,) = torch.autograd.grad((c * torch.tensor([1.0, 2.0, 3.0])).sum(), a)
    assert torch.isfinite(c).all()
    assert torch.isfinite(gradient).all()


def test_identical_vectors_merge_to_themselves() -> None:
    vectors = np.stack([flat_vectors(1)[0]] * 3)
    c = Slerp().coefficients(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), gram_of(vectors))
    assert c.sum().item() == pytest.approx(1)


def test_a_chain_depends_on_its_order() -> None:
    orthogonal = torch.eye(4, dtype=torch.float64)
    c = Slerp().coefficients(torch.ones(4, dtype=torch.float64), orthogonal)
    assert c.tolist() == pytest.approx([8**-0.5, 8**-0.5, 0.5, 0.5**0.5])


def test_only_ratios_of_a_matter() -> None:
    gram = gram_of(flat_vectors(3))
    a = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for method in (Slerp(), Average()):
        assert torch.allclose(method.coefficients(a, gram), method.coefficients(7 * a, gram))


def test_a_position_follows_the_order_of_its_method() -> None:
    vectors = flat_vectors(3)
    position = Position(Slerp(["c", "a", "b"]), gram_of(vectors), order=[2, 0, 1])
    merged = position.coefficients().detach().numpy() @ vectors
    assert np.allclose(merged, obvious_slerp(vectors[[2, 0, 1]], [1.0, 1.0, 1.0]))


def test_the_gradient_of_a_merge_is_dot_products() -> None:
    vectors, base = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    c = torch.rand(3, dtype=torch.float64, requires_grad=True)

    def merged(x: torch.Tensor) -> torch.Tensor:
        return attach_coefficients(x, combine(base, vectors, x), vectors).sin()

    assert torch.autograd.gradcheck(merged, (c,))
    (gradient,) = torch.autograd.grad(merged(c).sum(), c)
    slope = combine(base, vectors, c).cos()
    assert torch.allclose(gradient, torch.stack([(v * slope).sum() for v in vectors]))


def test_a_position_stays_float32() -> None:
    position = Position(Slerp(), gram_of(flat_vectors(2)))
    with torch.no_grad():
        position.raw_a.add_(1e-4)
    before = position.raw_a.clone()
    position.to(torch.bfloat16)
    assert position.raw_a.dtype == torch.float32
    assert torch.equal(position.raw_a, before)


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("name", METHODS)
def test_a_position_has_the_gradient_of_the_flat_version(name: str, experts: int) -> None:
    method, obvious = METHODS[name]
    vectors, direction = flat_vectors(experts), np.random.default_rng(3).normal(size=200)
    position = Position(method, gram_of(vectors))
    with torch.no_grad():
        position.raw_a.copy_(torch.linspace(-0.5, 1.5, experts))
        position.raw_scale.fill_(0.3)
    raw = [float(x) for x in position.raw_a] + [float(position.raw_scale)]

    def value(numbers: list[float]) -> float:
        *a, scale = (math.log1p(math.exp(x)) for x in numbers)
        return float(obvious(vectors, a) @ direction) * (scale if method.has_scale else 1.0)

    step = 1e-6
    expected = [
        (value([*raw[:i], x + step, *raw[i + 1 :]]) - value([*raw[:i], x - step, *raw[i + 1 :]])) / (2 * step)
        for i, x in enumerate(raw)
    ]
    (position.coefficients() @ torch.tensor(vectors @ direction)).backward()
    assert position.raw_a.grad is not None
    assert np.allclose(position.raw_a.grad, expected[:-1], rtol=1e-5, atol=1e-5)
    if position.raw_scale.grad is None:
        assert not method.has_scale
    else:
        assert float(position.raw_scale.grad) == pytest.approx(expected[-1], rel=1e-5)


@pytest.mark.parametrize("case", ["identical", "zero", "first zero", "parallel", "antiparallel"])
def test_degenerate_vectors_take_the_linear_limit(case: str) -> None:
    vectors = degenerate()[case][:2]
    a = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    c = Slerp().coefficients(a, gram_of(vectors))
    assert c.tolist() == pytest.approx([0.25, 0.75])
    (gradient,) = torch.autograd.grad(c[1], a)
    assert gradient.tolist() == pytest.approx([-1.5 / 4, 0.5 / 4])  # of a_2 / (a_1 + a_2)


def test_a_small_angle_is_close_to_the_linear_limit() -> None:
    u, v, _ = flat_vectors(3)
    a = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    c = Slerp().coefficients(a, gram_of(np.stack([u, u + 1e-5 * v])))
    (gradient,) = torch.autograd.grad(c[1], a)
    assert c.tolist() == pytest.approx([0.25, 0.75], abs=1e-5)
    assert gradient.tolist() == pytest.approx([-1.5 / 4, 0.5 / 4], abs=1e-4)
