"""Merge methods against the obvious version on whole flat vectors."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.errors import UserError
from modules.merging import (
    Average,
    Breadcrumbs,
    Dare,
    Della,
    Fisher,
    Karcher,
    Lines,
    MergeMethod,
    MultiSlerp,
    RegMean,
    Sce,
    Slerp,
    SphericalMean,
    TaskArithmetic,
    Ties,
)
from modules.merging.combine import attach_coefficients, combine
from modules.merging.merge_method import Prepared, Statistics
from modules.on_disk.plan import Plan
from modules.positioning.position import Position, merge_coefficients

Vector = np.ndarray
Obvious = Callable[[Vector, Sequence[float]], Vector]


def flat_vectors(experts: int, seed: int = 0) -> Vector:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(experts, 200)) * generator.uniform(0.5, 2, size=(experts, 1))


def related_vectors(experts: int, seed: int = 0) -> Vector:
    """Acute angles: experts of one base agree in part."""
    return flat_vectors(experts, seed) + np.random.default_rng(seed + 1).normal(size=200)


def weights_of(experts: int, seed: int = 1) -> list[float]:
    return np.random.default_rng(seed).uniform(0.3, 3, experts).tolist()


def gram_of(vectors: Vector) -> Tensor:
    return torch.tensor(vectors @ vectors.T)


def coefficients(method: MergeMethod, a: Sequence[float], vectors: Vector) -> Vector:
    return method.coefficients(torch.tensor(a, dtype=torch.float64), gram_of(vectors)).numpy()


def closeness(actual: Vector, expected: Vector) -> float:
    """Largest difference, relative to the largest entry."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


# The obvious versions of the methods that stay in the span of the task vectors.


def slerp(u: Vector, v: Vector, s: float) -> Vector:
    alpha = math.acos(u @ v / math.sqrt((u @ u) * (v @ v)))
    return (math.sin((1 - s) * alpha) * u + math.sin(s * alpha) * v) / math.sin(alpha)


def obvious_slerp(vectors: Vector, a: Sequence[float]) -> Vector:
    merged = vectors[0]
    for k in range(1, len(a)):
        merged = slerp(merged, vectors[k], a[k] / (sum(a[:k]) / k + a[k]))
    return merged


def obvious_average(vectors: Vector, a: Sequence[float]) -> Vector:
    return sum(weight * v for weight, v in zip(a, vectors, strict=True)) / sum(a)


def obvious_arithmetic(vectors: Vector, a: Sequence[float]) -> Vector:
    return sum(weight * v for weight, v in zip(a, vectors, strict=True))


def mean_on_the_sphere(units: Vector, w: Vector) -> Vector:
    """Gradient descent on ``sum_i w_i angle(m, u_i)^2`` over unit vectors, from one of them."""
    mean = units[0]
    for _ in range(400):
        angles = np.arccos(np.clip(units @ mean, -1, 1))
        outwards = units - np.outer(units @ mean, mean)  # of length sin(angle), tangent to the sphere at the mean
        downhill = 0.5 * (w * angles / np.maximum(np.sin(angles), 1e-12)) @ outwards
        mean = mean + downhill  # a step along the tangent and back to the sphere
        mean /= np.linalg.norm(mean)
    return mean


def obvious_spherical_mean(vectors: Vector, a: Sequence[float]) -> Vector:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = mean_on_the_sphere(units, np.array(a) / sum(a))
    of_directions = np.linalg.lstsq(units.T, mean)[0]
    return of_directions @ vectors


def obvious_multi_slerp(vectors: Vector, a: Sequence[float]) -> Vector:
    w, norms = np.array(a) / sum(a), np.linalg.norm(vectors, axis=1)
    direction = sum(weight * v / norm for weight, v, norm in zip(w, vectors, norms, strict=True))
    return direction / np.linalg.norm(direction) * (w * norms).sum()


def obvious_karcher(vectors: Vector, a: Sequence[float]) -> Vector:
    w, norms = np.array(a) / sum(a), np.linalg.norm(vectors, axis=1)
    return (w @ norms) * mean_on_the_sphere(vectors / norms[:, None], w)


SPAN: dict[str, tuple[MergeMethod, Obvious]] = {
    "slerp": (Slerp(), obvious_slerp),
    "average": (Average(), obvious_average),
    "arithmetic": (TaskArithmetic(), obvious_arithmetic),
    "spherical mean": (SphericalMean(), obvious_spherical_mean),
    "multi slerp": (MultiSlerp(), obvious_multi_slerp),
    "karcher": (Karcher(), obvious_karcher),
}
SYMMETRIC = ["average", "arithmetic", "spherical mean", "multi slerp", "karcher"]


def position_at(method: MergeMethod, grams: Tensor, a: Sequence[float], scale: float) -> Position:
    position = Position(method, grams)
    with torch.no_grad():
        position.raw_a.copy_(torch.tensor(a).expm1().log())
        position.raw_scale.fill_(math.log(math.expm1(scale)))
    return position


@pytest.mark.parametrize("vectors_of", [flat_vectors, related_vectors])
@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("name", SPAN)
def test_a_position_equals_the_flat_version(name: str, experts: int, vectors_of: Callable[[int], Vector]) -> None:
    method, obvious = SPAN[name]
    vectors, a = vectors_of(experts), weights_of(experts)
    base = np.random.default_rng(2).normal(size=200)
    position = position_at(method, gram_of(vectors), a, 0.7)
    merged = combine(torch.tensor(base), torch.tensor(vectors), position.coefficients()[0].detach()).numpy()
    scale = 0.7 if method.has_scale else 1.0
    assert closeness(merged - base, scale * obvious(vectors, a)) < 1e-6


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("name", SPAN)
def test_gradients_equal_finite_differences(name: str, experts: int) -> None:
    method, gram = SPAN[name][0], gram_of(flat_vectors(experts))
    a = torch.tensor(weights_of(experts), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: method.coefficients(x, gram), (a,))


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("name", SPAN)
def test_a_position_has_the_gradient_of_the_flat_version(name: str, experts: int) -> None:
    method, obvious = SPAN[name]
    vectors, direction = flat_vectors(experts), np.random.default_rng(3).normal(size=200)
    position = Position(method, gram_of(vectors))
    with torch.no_grad():
        position.raw_a.copy_(torch.linspace(-0.5, 1.5, experts))
        position.raw_scale.fill_(0.3)
    raw = [*position.raw_a[0].tolist(), *position.raw_scale.tolist()]

    def value(numbers: list[float]) -> float:
        *a, scale = (math.log1p(math.exp(x)) for x in numbers)
        return float(obvious(vectors, a) @ direction) * (scale if method.has_scale else 1.0)

    step = 1e-6
    expected = [
        (value([*raw[:i], x + step, *raw[i + 1 :]]) - value([*raw[:i], x - step, *raw[i + 1 :]])) / (2 * step)
        for i, x in enumerate(raw)
    ]
    (position.coefficients()[0] @ torch.tensor(vectors @ direction)).backward()
    assert position.raw_a.grad is not None
    assert np.allclose(position.raw_a.grad[0], expected[:-1], rtol=1e-5, atol=1e-5)
    if position.raw_scale.grad is None:
        assert not method.has_scale
    else:
        assert float(position.raw_scale.grad) == pytest.approx(expected[-1], rel=1e-5)


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_permuted_experts_have_permuted_coefficients(name: str, experts: int) -> None:
    method, vectors, a = SPAN[name][0], flat_vectors(experts), np.array(weights_of(experts))
    permutation = np.random.default_rng(4).permutation(experts)
    while np.array_equal(permutation, np.arange(experts)):
        permutation = np.roll(permutation, 1)
    permuted = coefficients(method, a[permutation].tolist(), vectors[permutation])
    assert np.allclose(permuted, coefficients(method, a.tolist(), vectors)[permutation], rtol=1e-9)


@pytest.mark.parametrize("name", ["slerp", "average", "spherical mean", "multi slerp", "karcher"])
def test_only_ratios_of_a_matter(name: str) -> None:
    method, vectors, a = SPAN[name][0], flat_vectors(3), [0.5, 1.0, 2.0]
    assert np.allclose(coefficients(method, a, vectors), coefficients(method, [7 * x for x in a], vectors))


@pytest.mark.parametrize("name", SPAN)
def test_one_expert_is_itself(name: str) -> None:
    c = SPAN[name][0].coefficients(torch.ones(1, dtype=torch.float64), gram_of(flat_vectors(1)))
    assert c.tolist() == pytest.approx([1.0], rel=1e-12)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("name", SPAN)
def test_nearly_all_weight_on_an_expert_gives_that_expert(name: str, which: int) -> None:
    a = [1e-9] * 3
    a[which] = 1.0
    assert np.allclose(coefficients(SPAN[name][0], a, flat_vectors(3)), np.eye(3)[which], atol=1e-6)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("name", SPAN)
def test_dropping_all_other_experts_gives_the_one_left(name: str, which: int) -> None:
    a = np.eye(3)[which].tolist()
    assert np.allclose(coefficients(SPAN[name][0], a, flat_vectors(3)), a, atol=1e-12)


@pytest.mark.parametrize("name", SPAN)
def test_scale_zero_is_the_base_bit_for_bit(name: str) -> None:
    vectors = flat_vectors(3)
    base = torch.tensor(np.random.default_rng(2).normal(size=200), dtype=torch.float32)
    c = 0.0 * SPAN[name][0].coefficients(torch.ones(3, dtype=torch.float64), gram_of(vectors))
    assert torch.equal(combine(base, torch.tensor(vectors).float(), c), base)


@pytest.mark.parametrize("name", ["slerp", "spherical mean", "multi slerp", "karcher"])
def test_equal_norms_are_kept_on_the_sphere(name: str) -> None:
    vectors = flat_vectors(3)
    vectors *= 5.0 / np.linalg.norm(vectors, axis=1, keepdims=True)
    merged = coefficients(SPAN[name][0], [0.4, 1.0, 1.9], vectors) @ vectors
    assert np.linalg.norm(merged) == pytest.approx(5.0, rel=1e-9)


def test_two_on_the_sphere_are_slerp() -> None:
    vectors = flat_vectors(2)
    expected = coefficients(Slerp(), [0.4, 1.9], vectors)
    assert np.allclose(coefficients(SphericalMean(), [0.4, 1.9], vectors), expected, rtol=1e-9)


def test_the_spherical_mean_has_the_least_squared_angles() -> None:
    vectors, w = flat_vectors(4), np.array([0.1, 0.2, 0.3, 0.4])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = coefficients(SphericalMean(), w.tolist(), vectors) @ units

    def objective(point: Vector) -> float:
        return float((w * np.arccos(units @ point / np.linalg.norm(point)) ** 2).sum())

    assert np.linalg.norm(mean) == pytest.approx(1)
    for direction in np.random.default_rng(5).normal(size=(20, 4)) @ units:
        assert objective(mean) < min(objective(mean + 1e-3 * direction), objective(mean - 1e-3 * direction))


def test_a_chain_depends_on_its_order() -> None:
    orthogonal = torch.eye(4, dtype=torch.float64)
    c = Slerp().coefficients(torch.ones(4, dtype=torch.float64), orthogonal)
    assert c.tolist() == pytest.approx([8**-0.5, 8**-0.5, 0.5, 0.5**0.5])
    assert SphericalMean().coefficients(torch.ones(4, dtype=torch.float64), orthogonal).tolist() == pytest.approx(
        [0.5] * 4
    )


# Vectors that have no angle, or no direction at all.


def degenerate() -> dict[str, Vector]:
    u, v, w = flat_vectors(3)
    return {
        "identical": np.stack([u, u, v]),
        "all identical": np.stack([u, u, u]),
        "zero": np.stack([u, np.zeros_like(u), v]),
        "first zero": np.stack([np.zeros_like(u), u, v]),
        "two zero": np.stack([np.zeros_like(u), np.zeros_like(u), v]),
        "all zero": np.zeros((3, 200)),
        "parallel": np.stack([u, 3 * u, w]),
        "antiparallel": np.stack([u, -u, w]),
        "cancelling": np.stack([u, -u * 0.8 / 1.0, np.zeros_like(u)]),
        "nearly identical": np.stack([u, u + 1e-9 * v, w]),
        "nearly antiparallel": np.stack([u, -u + 1e-5 * v, w]),
        "in a plane, all around": np.stack([u, -u / 2 + v, -u / 2 - v]),
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("a", [[0.8, 1.0, 1.3], [1.0, 1.0, 1.0]])
@pytest.mark.parametrize("name", SPAN)
def test_degenerate_vectors_have_finite_coefficients_and_gradients(name: str, a: list[float], case: str) -> None:
    numbers = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    c = SPAN[name][0].coefficients(numbers, gram_of(degenerate()[case]))
    (gradient,) = torch.autograd.grad((c * torch.tensor([1.0, 2.0, 3.0])).sum(), numbers)
    assert torch.isfinite(c).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["slerp", "average", "spherical mean", "multi slerp", "karcher"])
def test_identical_vectors_merge_to_themselves(name: str) -> None:
    vectors = np.stack([flat_vectors(1)[0]] * 3)
    merged = coefficients(SPAN[name][0], [1.0, 2.0, 3.0], vectors) @ vectors
    assert closeness(merged, vectors[0]) < 1e-9


@pytest.mark.parametrize("case", ["identical", "zero", "first zero", "parallel", "antiparallel"])
def test_degenerate_vectors_take_the_linear_limit(case: str) -> None:
    vectors = degenerate()[case][:2]
    a = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    c = Slerp().coefficients(a, gram_of(vectors))
    assert c.tolist() == pytest.approx([0.25, 0.75])
    (gradient,) = torch.autograd.grad(c[1], a)
    assert gradient.tolist() == pytest.approx([-1.5 / 4, 0.5 / 4])  # of a_2 / (a_1 + a_2)


@pytest.mark.parametrize("a", [[1.0, 1.0, 1.0], [0.8, 1.0, 1.3]])
def test_directions_that_surround_their_mean_are_averaged(a: list[float]) -> None:
    turns = 2 * math.pi * np.arange(3) / 3
    in_a_plane = np.stack([np.cos(turns), np.sin(turns)], axis=1) @ flat_vectors(2)
    assert coefficients(SphericalMean(), a, in_a_plane) == pytest.approx(np.array(a) / sum(a))


@pytest.mark.parametrize("case", ["identical", "parallel", "antiparallel"])
@pytest.mark.parametrize("a", [[0.5, 1.5], [1.5, 0.5], [1.0, 1.0]])
def test_two_without_an_angle_on_the_sphere_are_slerp(a: list[float], case: str) -> None:
    vectors = degenerate()[case][:2]
    assert coefficients(SphericalMean(), a, vectors) == pytest.approx(coefficients(Slerp(), a, vectors))


@pytest.mark.parametrize("method", [Slerp(), SphericalMean(), Karcher()])
def test_a_small_angle_is_close_to_the_linear_limit(method: MergeMethod) -> None:
    u, v, _ = flat_vectors(3)
    a = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    c = method.coefficients(a, gram_of(np.stack([u, u + 1e-5 * v])))
    (gradient,) = torch.autograd.grad(c[1], a)
    assert c.tolist() == pytest.approx([0.25, 0.75], abs=1e-5)
    assert gradient.tolist() == pytest.approx([-1.5 / 4, 0.5 / 4], abs=1e-4)


@pytest.mark.parametrize("name", ["spherical mean", "multi slerp", "karcher"])
def test_a_zero_vector_takes_no_part(name: str) -> None:
    with_zero = degenerate()["zero"]
    c = coefficients(SPAN[name][0], [0.5, 5.0, 1.5], with_zero)
    assert c[[0, 2]] == pytest.approx(coefficients(SPAN[name][0], [0.5, 1.5], with_zero[[0, 2]]))
    assert c[1] == 0


# Positions: signs, order, groups.


@pytest.mark.parametrize("name", SPAN)
def test_a_negative_number_merges_the_negated_vector(name: str) -> None:
    method, obvious = SPAN[name]
    vectors, a, sign = flat_vectors(3), [0.5, -1.25, 2.0], np.array([1, -1, 1])
    position = Position(method, gram_of(vectors), signed=True)
    with torch.no_grad():
        position.raw_a.copy_(torch.tensor(a))
    assert position.a[0].tolist() == a
    merged = position.coefficients()[0].detach().numpy() @ vectors
    assert closeness(merged, obvious(sign[:, None] * vectors, np.abs(a).tolist())) < 1e-6


def in_both_routes(method: MergeMethod, a: Sequence[float], gram: Tensor) -> list[Tensor | str]:
    """What a position and a merge of files take as coefficients, or why they refuse to."""
    position = Position(method, gram, signed=True)
    plan = Plan("base", dict.fromkeys("abc", "folder"), method, a, scale=float(position.scale.detach()))

    def in_memory() -> Tensor:
        position.stand_at(torch.tensor(a, dtype=torch.float64))
        return position.coefficients()[0].detach()

    found: list[Tensor | str] = []
    for route in (in_memory, lambda: plan.coefficients(gram)):
        try:
            found.append(route())
        except UserError as error:
            found.append(str(error))
    return found


def methods() -> dict[str, MergeMethod]:
    """Every method there is."""
    return {name: method for name, (method, _) in everything(3).items()}


def test_zeros_and_signs_mean_the_same_in_every_method_and_both_routes() -> None:
    zero_vector = flat_vectors(3) * np.array([[1], [0], [1]])
    patterns = itertools.product((-1, 0, 1), repeat=3)
    for method, vectors, signs in itertools.product(methods().values(), (flat_vectors(3), zero_vector), patterns):
        a = [sign * number for sign, number in zip(signs, (0.5, 1.25, 2.0), strict=True)]
        in_memory, on_disk = in_both_routes(method, a, gram_of(vectors))
        if not any(signs) and method.has_scale:
            assert "are all 0 and name no direction" in str(in_memory)
            assert in_memory == on_disk
            continue
        assert isinstance(in_memory, Tensor) and isinstance(on_disk, Tensor), (in_memory, on_disk)
        assert torch.equal(in_memory, on_disk)
        assert in_memory.isfinite().all()
        sides = [sign if number else 0 for sign, number in zip(signs, in_memory.tolist(), strict=True)]
        assert in_memory.sign().tolist() == sides  # of a zero vector, the coefficient may be 0
        assert all(number for sign, number, row in zip(signs, in_memory, vectors, strict=True) if sign and row.any())


def test_two_opposite_numbers_are_the_halved_difference() -> None:
    for found in in_both_routes(Average(), [1.0, -1.0, 0.0], gram_of(flat_vectors(3))):
        assert isinstance(found, Tensor)
        assert found.tolist() == pytest.approx([0.5, -0.5, 0.0], abs=1e-7)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_stays_so_in_every_method(wrong: float) -> None:
    for method, place in itertools.product(methods().values(), range(3)):
        a, gram = torch.tensor([0.5, 1.25, 2.0], dtype=torch.float64), gram_of(flat_vectors(3))
        bad_a, bad_gram = a.clone(), gram.clone()
        bad_a[place] = wrong
        bad_gram[place, 1] = bad_gram[1, place] = wrong
        assert merge_coefficients(method, bad_a, gram, [2, 0, 1]).isnan().all(), method
        assert merge_coefficients(method, a, bad_gram, [2, 0, 1]).isnan().all(), method


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("experts", [1, 2, 3, 5])
def test_a_position_finds_the_place_of_given_coefficients(experts: int, signed: bool) -> None:
    for method, seed in itertools.product(methods().values(), range(3)):
        draw = np.random.default_rng(seed)
        gram, order = gram_of(related_vectors(experts, seed)), draw.permutation(experts).tolist()
        a = draw.lognormal(sigma=1.5, size=experts) * (draw.choice([-1, 0, 1], experts) if signed else 1)
        a[0] = a[0] or 0.7
        scale = 1.7 if method.has_scale else 1.0
        c = scale * merge_coefficients(method, torch.tensor(a), gram, order)
        position = Position(method, gram, order, signed=signed)
        position.stand_where(c)
        assert torch.allclose(position.coefficients()[0], c, rtol=1e-6, atol=1e-7), method
        if method.has_scale:
            assert float(position.a.abs().mean().detach()) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("numbers", [[0.5, -0.1], [0.5, 0.0], [0.5, math.nan], [math.inf, 1.0]])
def test_a_position_refuses_to_stand_at_what_it_cannot_be(numbers: list[float]) -> None:
    there = torch.tensor(numbers, dtype=torch.float64)
    position = Position(Slerp(), gram_of(flat_vectors(2)))
    before = position.raw_a.clone()
    for move in (position.stand_at, position.stand_where):
        with pytest.raises(UserError, match="not all above 0; a position stands there only if|give finite numbers"):
            move(there)
    for scale in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="a position cannot have the scale"):
            position.stand_at(scale=scale)
    assert torch.equal(position.raw_a, before)


def test_coefficients_that_a_method_has_nowhere_are_refused() -> None:
    gram = gram_of(flat_vectors(2) * np.array([[1], [0]]))  # a zero vector has no direction
    with pytest.raises(UserError, match="MultiSlerp has the coefficients 0.3, 0.4 nowhere"):
        Position(MultiSlerp(), gram).stand_where(torch.tensor([0.3, 0.4], dtype=torch.float64))


@pytest.mark.parametrize("name", SPAN)
def test_signed_gradients_equal_finite_differences(name: str) -> None:
    method, gram = SPAN[name][0], gram_of(flat_vectors(3))
    a = torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: merge_coefficients(method, x, gram, [2, 0, 1]), (a,))


def test_a_dropped_expert_can_come_back() -> None:
    a = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    c = merge_coefficients(TaskArithmetic(), a, gram_of(flat_vectors(2)), [0, 1])
    (gradient,) = torch.autograd.grad(c[0], a)
    assert gradient.tolist() == [1.0, 0.0]


def test_a_position_follows_the_order_of_its_method() -> None:
    vectors, a = flat_vectors(3), [0.5, 1.0, 2.0]
    position = Position(Slerp(["c", "a", "b"]), gram_of(vectors), order=[2, 0, 1])
    with torch.no_grad():
        position.raw_a.copy_(torch.tensor(a).expm1().log())
    merged = position.coefficients()[0].detach().numpy() @ vectors
    assert closeness(merged, obvious_slerp(vectors[[2, 0, 1]], [2.0, 0.5, 1.0])) < 1e-6


@pytest.mark.parametrize("name", SPAN)
def test_each_group_is_merged_like_a_model_of_its_own(name: str) -> None:
    method, obvious = SPAN[name]
    groups = [flat_vectors(3, seed)[:, : 50 * (1 + seed)] for seed in range(3)]
    position = Position(method, torch.stack([gram_of(v) for v in groups]), labels=["first", "second", "third"])
    a, scales = torch.tensor([weights_of(3, seed) for seed in range(3)]), torch.tensor([0.5, 1.0, 1.5])
    with torch.no_grad():
        position.raw_a.copy_(a.expm1().log())
        position.raw_scale.copy_(scales.expm1().log())
    for vectors, c, numbers, scale in zip(groups, position.coefficients().detach(), a, scales, strict=True):
        expected = obvious(vectors, numbers.tolist()) * (float(scale) if method.has_scale else 1.0)
        assert closeness(c.numpy() @ vectors, expected) < 1e-6


def groups_of_all_kinds() -> Tensor:
    """Gram matrices of three task vectors each: ``[G, 3, 3]``."""
    ordinary = [make(3, seed) for make in (flat_vectors, related_vectors) for seed in range(3)]
    return torch.stack([gram_of(vectors) for vectors in [*ordinary, *degenerate().values()]])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", SPAN)
def test_groups_taken_together_are_groups_one_by_one(name: str, signed: bool) -> None:
    method, grams = SPAN[name][0], groups_of_all_kinds()
    position = Position(method, grams, order=[2, 0, 1], signed=signed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        position.raw_a.copy_(torch.randn(position.raw_a.shape, generator=generator))
        position.raw_scale.copy_(torch.randn(len(grams), generator=generator))
    place = position._here()
    derivative = position._derivative(place.raw)

    def alone(raw: Tensor, gram: Tensor) -> Tensor:
        a = raw[:-1] if signed else torch.nn.functional.softplus(raw[:-1])
        scale = torch.nn.functional.softplus(raw[-1]) if method.has_scale else 1.0
        return scale * merge_coefficients(method, a, gram, [2, 0, 1])

    for raw, gram, c, slope in zip(place.raw, grams, place.c, derivative, strict=True):
        expected = torch.autograd.functional.jacobian(lambda x, gram=gram: alone(x, gram), raw)
        assert torch.allclose(c, alone(raw, gram), rtol=1e-12, atol=1e-12)
        assert torch.allclose(slope, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


def test_a_group_that_is_not_finite_leaves_the_others_alone() -> None:
    for method in methods().values():
        grams = groups_of_all_kinds()[:3]
        expected = method.coefficients(torch.ones(3, 3).double(), grams)
        grams[1, 0, 0] = math.nan
        a = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)
        c = method.coefficients(a, grams)
        (gradient,) = torch.autograd.grad(c[[0, 2]].square().sum(), a)
        assert c[1].isnan().all()
        assert torch.allclose(c[[0, 2]], expected[[0, 2]], rtol=1e-12)
        assert gradient.isfinite().all()


def test_one_group_of_zeros_is_refused() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(UserError, match="are all 0 and name no direction"):
        Slerp().coefficients(a, torch.stack([gram_of(flat_vectors(2))] * 2))


@pytest.mark.parametrize("name", SPAN)
def test_both_routes_have_the_bits_of_one_in_every_group(name: str) -> None:
    method, grams, a = SPAN[name][0], groups_of_all_kinds(), [0.5, 1.25, 2.0]
    position = Position(method, grams, signed=True)
    position.stand_at(torch.tensor(a, dtype=torch.float64))
    plan = Plan("base", dict.fromkeys("abc", "folder"), method, a)
    scale = position.scale[:, None]  # equal raw numbers, which softplus may round otherwise at the end of a vector
    assert torch.equal(scale * plan.coefficients(grams), position.coefficients())


class CountedAverage(Average):
    """Counts how often its coefficients are worked out."""

    count = 0

    def positive_coefficients(self, a: Tensor, gram: Tensor) -> Tensor:
        self.count += 1
        return super().positive_coefficients(a, gram)


def test_coefficients_are_worked_out_once_per_place() -> None:
    method = CountedAverage()
    position = Position(method, gram_of(flat_vectors(2)))
    for step in range(1, 3):
        with torch.no_grad():
            position.raw_a.add_(torch.tensor([[0.1, 0.2]]))
            position.coefficients()
        assert method.count == 2 * step - 1  # the coefficients
        for _ in range(3):
            position.coefficients()[0, 0].backward()
        assert method.count == 2 * step  # and their derivative


def test_the_derivative_is_that_of_the_place_where_coefficients_are_equal() -> None:
    position = Position(Average(), gram_of(flat_vectors(2)), signed=True)
    gradients = []
    for a in ([1.0, 3.0], [2.0, 6.0]):
        position.stand_at(torch.tensor(a, dtype=torch.float64))
        gradients.append(torch.autograd.grad(position.coefficients()[0, 0], position.raw_a)[0])
    assert torch.allclose(gradients[0], 2 * gradients[1])


def test_groups_do_not_see_each_others_gradients() -> None:
    position = Position(Slerp(), torch.stack([gram_of(flat_vectors(3, seed)) for seed in range(2)]))
    position.coefficients()[1].sum().backward()
    assert position.raw_a.grad is not None
    assert position.raw_scale.grad is not None
    assert not position.raw_a.grad[0].any()
    assert position.raw_a.grad[1].any()
    assert position.raw_scale.grad[0] == 0


def test_task_arithmetic_starts_at_the_soup_and_has_no_scale() -> None:
    position = Position(TaskArithmetic(), gram_of(flat_vectors(4)))
    assert position.coefficients()[0].tolist() == pytest.approx([0.25] * 4)
    assert not position.raw_scale.requires_grad


def test_a_position_stays_float32() -> None:
    position = Position(Slerp(), gram_of(flat_vectors(2)))
    with torch.no_grad():
        position.raw_a.add_(1e-4)
    before = position.raw_a.clone()
    position.to(torch.bfloat16)
    assert position.raw_a.dtype == torch.float32
    assert torch.equal(position.raw_a, before)


def test_the_gradient_of_a_merge_is_dot_products() -> None:
    vectors, base = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    c = torch.rand(3, dtype=torch.float64, requires_grad=True)

    def merged(x: Tensor) -> Tensor:
        return attach_coefficients(x, combine(base, vectors, x), vectors).sin()

    assert torch.autograd.gradcheck(merged, (c,))
    (gradient,) = torch.autograd.grad(merged(c).sum(), c)
    slope = combine(base, vectors, c).cos()
    assert torch.allclose(gradient, torch.stack([(v * slope).sum() for v in vectors]))


# Methods that look at the entries: a model of three tensors and its whole flat vector.

SHAPES = {"table": (11, 5), "layer.weight": (4, 6), "layer.bias": (6,)}
TensorsOf = dict[str, Tensor]


def split(flat: Vector) -> TensorsOf:
    """``[N, 85]`` to ``[N, *shape]`` per tensor, float64."""
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    parts = torch.tensor(flat).split(sizes, dim=1)
    return {name: part.reshape(-1, *SHAPES[name]).clone() for name, part in zip(SHAPES, parts, strict=True)}


def joined(tensors: dict[str, Tensor]) -> Vector:
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).numpy()


def few_digits(experts: int, seed: int = 0) -> Vector:
    """``[N, 85]`` of multiples of 1/8: exact in float32, with many duplicates and some zeros."""
    return np.round(np.random.default_rng(seed).normal(size=(experts, 85)) * 8) / 8


def prepared(method: MergeMethod, flat: Vector, statistics: Statistics | None = None) -> dict[str, Prepared]:
    vectors = split(flat)

    def stream() -> Iterator[tuple[str, Tensor]]:
        return iter(vectors.items())

    prepare = method.preparation(stream, statistics)
    return {name: prepare(name, stacked) for name, stacked in vectors.items()}


def merge(method: MergeMethod, flat: Vector, a: Sequence[float], statistics: Statistics | None = None) -> Vector:
    """The merged task vector of a whole model, at scale 1: ``[85]``."""
    parts = prepared(method, flat, statistics)
    whole = torch.cat([part.vectors.flatten(1) for part in parts.values()], dim=1)
    c = method.coefficients(torch.tensor(a, dtype=torch.float64), whole @ whole.T)
    zero = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    return joined({name: combine(zero[name], part.vectors, c, part.importance) for name, part in parts.items()})


def obvious_ties(vectors: Vector, a: Sequence[float], density: float) -> Vector:
    kept = max(1, int(density * vectors.shape[1]))
    trimmed = np.stack([np.where(np.abs(v) >= np.sort(np.abs(v))[-kept], v, 0.0) for v in vectors])
    sign = np.where(trimmed.sum(0) >= 0, 1, -1)
    merged = np.zeros(vectors.shape[1])
    for entry, column in enumerate(trimmed.T):
        agreeing = [(w, x) for w, x in zip(a, column, strict=True) if x * sign[entry] > 0]
        if agreeing:
            merged[entry] = sum(w * x for w, x in agreeing) / sum(w for w, _ in agreeing)
    return merged


def per_tensor(obvious: Callable[[Vector], Vector], flat: Vector) -> Vector:
    return np.concatenate([obvious(v.flatten(1).numpy()) for v in split(flat).values()])


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("experts", [2, 3, 5])
def test_ties_equals_the_flat_version(experts: int, density: float) -> None:
    flat, a = few_digits(experts), weights_of(experts)
    merged = merge(Ties(density), flat, a)
    assert closeness(merged, obvious_ties(flat, a, density)) < 1e-12


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("experts", [2, 3, 5])
def test_ties_tensor_by_tensor_equals_the_flat_version_of_each(experts: int, density: float) -> None:
    flat, a = few_digits(experts), weights_of(experts)
    merged = merge(Ties(density, per_tensor=True), flat, a)
    assert closeness(merged, per_tensor(lambda v: obvious_ties(v, a, density), flat)) < 1e-12
    if density < 1:
        assert not np.allclose(merged, obvious_ties(flat, a, density))


def test_ties_of_all_entries_with_equal_signs_is_the_mean() -> None:
    flat, a = np.abs(few_digits(3)) + 1, [0.5, 1.0, 2.0]
    flat[:, ::2] *= -1
    assert closeness(merge(Ties(1.0), flat, a), obvious_average(flat, a)) < 1e-12


def test_ties_keeps_all_that_tie_at_the_threshold() -> None:
    flat = np.ones((2, 85))
    flat[:, 0] = 3.0
    assert np.array_equal(merge(Ties(0.02), flat, [1.0, 1.0]), [3.0] + [0.0] * 84)
    assert np.array_equal(merge(Ties(0.03), flat, [1.0, 1.0]), flat[0])


def test_ties_does_not_depend_on_the_order_of_the_experts() -> None:
    flat, a = few_digits(3), np.array([0.5, 1.0, 2.0])
    turned = merge(Ties(0.3), flat[[2, 0, 1]], a[[2, 0, 1]].tolist())
    assert np.allclose(turned, merge(Ties(0.3), flat, a.tolist()), rtol=1e-12)


def information(experts: int, seed: int = 7) -> Vector:
    """Squares over ten decades, as Fisher information is; some entries are zero for one expert, some for all."""
    generator = np.random.default_rng(seed)
    values = 10.0 ** generator.uniform(-12, -2, size=(experts, 85))
    values[generator.random(size=values.shape) < 0.1] = 0
    values[:, ::9] = 0
    return values


def obvious_fisher(vectors: Vector, a: Sequence[float], fisher: Vector) -> Vector:
    merged = obvious_average(vectors, a)
    for entry in range(vectors.shape[1]):
        weights = np.array(a) * fisher[:, entry]
        if weights.any():
            merged[entry] = weights @ vectors[:, entry] / weights.sum()
    return merged


@pytest.mark.parametrize("experts", [2, 3, 5])
def test_fisher_equals_the_flat_version(experts: int) -> None:
    flat, a, fisher = few_digits(experts), weights_of(experts), information(experts)
    assert closeness(merge(Fisher(), flat, a, split(fisher).get), obvious_fisher(flat, a, fisher)) < 1e-12


def test_fisher_without_information_on_a_tensor_averages_it() -> None:
    flat, a = few_digits(3), [0.5, 1.0, 2.0]
    fisher = {name: f for name, f in split(information(3)).items() if name != "table"}
    merged = merge(Fisher(), flat, a, fisher.get)
    assert np.allclose(merged[:55], obvious_average(flat, a)[:55])
    assert not np.allclose(merged[55:], obvious_average(flat, a)[55:])


def test_fisher_of_no_information_at_all_is_the_average() -> None:
    flat, a = few_digits(3), [0.5, 1.0, 2.0]
    merged = merge(Fisher(), flat, a, split(np.zeros_like(flat)).get)
    assert closeness(merged, obvious_average(flat, a)) < 1e-12


def test_fisher_does_not_depend_on_the_order_of_the_experts() -> None:
    flat, a, fisher = few_digits(3), np.array([0.5, 1.0, 2.0]), information(3)
    turned = merge(Fisher(), flat[[2, 0, 1]], a[[2, 0, 1]].tolist(), split(fisher[[2, 0, 1]]).get)
    assert np.allclose(turned, merge(Fisher(), flat, a.tolist(), split(fisher).get), rtol=1e-12)


def inputs(experts: int, tokens: int = 40) -> Vector:
    """Layer inputs ``[N, tokens, 6]``, each expert's with a covariance of its own."""
    generator = np.random.default_rng(8)
    return generator.normal(size=(experts, tokens, 6)) @ generator.normal(size=(experts, 6, 6))


def grams_for(x: Vector) -> Statistics:
    grams = torch.tensor(np.einsum("nti,ntj->nij", x, x) / x.shape[1])
    return lambda name: grams if name == "layer.weight" else None


def obvious_reg_mean(weights: Vector, x: Vector, off_diagonal: float) -> Vector:
    """``[out, in]`` from ``[N, out, in]``: least squares on the experts' outputs, off-diagonals scaled."""
    total, target = np.zeros((6, 6)), np.zeros((6, 4))
    for w, inputs_of in zip(weights, x, strict=True):
        gram = inputs_of.T @ inputs_of
        gram = off_diagonal * gram + (1 - off_diagonal) * np.diag(np.diag(gram))
        total, target = total + gram, target + gram @ w.T
    return (np.linalg.inv(total) @ target).T


@pytest.mark.parametrize("off_diagonal", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("experts", [2, 3, 5])
def test_reg_mean_equals_the_flat_version(experts: int, off_diagonal: float) -> None:
    flat, x = few_digits(experts), inputs(experts)
    merged = merge(RegMean(off_diagonal), flat, [1.0] * experts, grams_for(x))
    expected = obvious_average(flat, [1.0] * experts)
    layer = split(flat)["layer.weight"].numpy()
    expected[55:79] = obvious_reg_mean(layer, x, off_diagonal).ravel()
    assert closeness(merged, expected) < 1e-6


def test_reg_mean_reproduces_the_experts_outputs_best() -> None:
    flat, x = few_digits(2), inputs(2)
    layer = split(flat)["layer.weight"].numpy()

    def error(merged: Vector) -> float:
        w = merged[55:79].reshape(4, 6)
        return sum(float(((t @ (w - v).T) ** 2).sum()) for t, v in zip(x, layer, strict=True))

    best = merge(RegMean(1.0), flat, [1.0, 1.0], grams_for(x))
    for direction in np.random.default_rng(9).normal(size=(10, 85)):
        assert error(best) < min(error(best + 1e-2 * direction), error(best - 1e-2 * direction))


def test_reg_mean_of_identical_data_is_the_average() -> None:
    flat, x = few_digits(3), inputs(1)[[0, 0, 0]]
    assert closeness(merge(RegMean(), flat, [1.0, 1.0, 1.0], grams_for(x)), obvious_average(flat, [1.0] * 3)) < 1e-6


def test_reg_mean_of_inputs_that_are_always_zero_is_finite() -> None:
    flat, x = few_digits(2), inputs(2)
    x[:, :, 2] = 0
    assert np.isfinite(merge(RegMean(), flat, [1.0, 1.0], grams_for(x))).all()
    assert np.isfinite(merge(RegMean(), flat, [1.0, 1.0], grams_for(0 * x))).all()


@pytest.mark.parametrize("method", [Fisher(), RegMean()])
def test_a_method_without_its_statistics_says_so(method: MergeMethod) -> None:
    with pytest.raises(UserError, match=f"{type(method).__name__} needs"):
        prepared(method, few_digits(2))


# DARE.


def big(experts: int) -> TensorsOf:
    return {name: torch.ones(experts, 200, 50, dtype=torch.float64) for name in ("one", "two")}


def drop(dare: Dare, vectors: TensorsOf) -> TensorsOf:
    prepare = dare.preparation(lambda: iter(vectors.items()))
    return {name: prepare(name, stacked.clone()).vectors for name, stacked in vectors.items()}


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_keeps_a_fraction_and_rescales_it(density: float) -> None:
    for stacked in drop(Dare(Average(), density), big(3)).values():
        for vector in stacked:
            assert set(vector.unique().tolist()) == {0.0, 1 / density}
            spread = math.sqrt(density * (1 - density) / vector.numel())
            assert abs(float((vector > 0).double().mean()) - density) < 5 * spread


def test_dare_of_all_entries_is_the_method_itself() -> None:
    flat = few_digits(3)
    assert closeness(merge(Dare(Slerp(), 1.0), flat, [0.5, 1.0, 2.0]), obvious_slerp(flat, [0.5, 1.0, 2.0])) < 1e-9


def test_dare_draws_anew_for_every_tensor_expert_and_seed() -> None:
    first, other = drop(Dare(Average()), big(2)), drop(Dare(Average(), seed=1), big(2))
    masks = [first["one"][0], first["one"][1], first["two"][0], other["one"][0]]
    for i, mask in enumerate(masks):
        for later in masks[i + 1 :]:
            assert abs(float(((mask > 0) == (later > 0)).double().mean()) - 0.5) < 0.05  # independent


def test_dare_draws_the_same_again() -> None:
    first, again = drop(Dare(Average()), big(2)), drop(Dare(Average()), big(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_dare_draws_the_same_whatever_else_is_merged() -> None:
    alone = drop(Dare(Average()), {"two": big(2)["two"]})
    assert torch.equal(alone["two"], drop(Dare(Average()), big(2))["two"])
    with_another_expert = drop(Dare(Average()), big(3))
    assert torch.equal(with_another_expert["two"][:2], alone["two"])


def dropped(flat: Vector, dare: Dare) -> Vector:
    """What is left of the task vectors, by a method that only combines: ``[N, 85]``."""
    alone = Dare(Average(), dare.density, dare.seed)
    return np.concatenate([part.vectors.flatten(1).numpy() for part in prepared(alone, flat).values()], axis=1)


def test_dare_over_slerp_is_slerp_of_what_is_left() -> None:
    flat, dare, a = few_digits(3), Dare(Slerp(), 0.6, seed=3), [0.5, 1.0, 2.0]
    assert closeness(merge(dare, flat, a), obvious_slerp(dropped(flat, dare), a)) < 1e-9


@pytest.mark.parametrize("by_tensor", [False, True])
def test_dare_over_ties_is_ties_of_what_is_left(by_tensor: bool) -> None:
    # A density of 1/2 keeps the values exact in float32, in which thresholds are found.
    flat, dare, a = few_digits(3), Dare(Ties(0.3, per_tensor=by_tensor), 0.5), [0.5, 1.0, 2.0]
    left = dropped(flat, dare)
    expected = per_tensor(lambda v: obvious_ties(v, a, 0.3), left) if by_tensor else obvious_ties(left, a, 0.3)
    assert closeness(merge(dare, flat, a), expected) < 1e-12


def test_dare_leaves_what_the_stream_gives_alone() -> None:
    vectors = big(2)
    Dare(Ties(0.5)).preparation(lambda: iter(vectors.items()))
    assert all(bool((stacked == 1).all()) for stacked in vectors.values())


def test_dare_is_like_the_method_under_it() -> None:
    dare = Dare(TaskArithmetic())
    assert not dare.has_scale
    assert dare.initial(4).tolist() == [0.25] * 4
    assert Dare(Slerp(["b", "a"])).order == ["b", "a"]
    assert Dare(Slerp()).uses_angles
    assert Dare(Fisher(rows=3)).statistics == "fisher"
    assert Dare(Fisher(rows=3)).rows == 3


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5])
@pytest.mark.parametrize("method", [Ties, Dare])
def test_a_density_that_is_no_fraction(method: Callable[..., MergeMethod], density: float) -> None:
    with pytest.raises(UserError, match=f"density of .* is {density}"):
        method(density=density)


# All methods together.


def everything(experts: int) -> dict[str, tuple[MergeMethod, Statistics | None]]:
    entries: dict[str, tuple[MergeMethod, Statistics | None]] = {
        name: (method, None) for name, (method, _) in SPAN.items()
    }
    return entries | {
        "ties": (Ties(0.4), None),
        "ties per tensor": (Ties(0.4, per_tensor=True), None),
        "fisher": (Fisher(), split(information(experts)).get),
        "reg mean": (RegMean(), grams_for(inputs(experts))),
        "dare slerp": (Dare(Slerp()), None),
        "dare ties": (Dare(Ties(0.4)), None),
        "sce": (Sce(0.4), None),
        "breadcrumbs": (Breadcrumbs(density=0.6, gamma=0.1), None),
        "breadcrumbs karcher": (Breadcrumbs(Karcher(), density=0.6, gamma=0.1), None),
        "della": (Della(), None),
        "della slerp": (Della(Slerp()), None),
        "lines": (Lines(), None),
        "lines ties": (Lines(Ties(0.4)), None),
    }


ALL = list(everything(1))


@pytest.mark.parametrize("experts", [2, 3])
@pytest.mark.parametrize("name", ALL)
def test_the_way_from_a_to_the_weights_passes_gradcheck(name: str, experts: int) -> None:
    method, statistics = everything(experts)[name]
    parts = prepared(method, few_digits(experts), statistics)
    whole = torch.cat([part.vectors.flatten(1) for part in parts.values()], dim=1)
    base = {part: torch.full(shape, 0.3, dtype=torch.float64) for part, shape in SHAPES.items()}

    def weights(a: Tensor) -> Tensor:
        c = method.coefficients(a, whole @ whole.T)
        tensors = [
            attach_coefficients(c, combine(base[key], part.vectors, c, part.importance), *part)
            for key, part in parts.items()
        ]
        return torch.cat([tensor.tanh().flatten() for tensor in tensors])

    a = torch.tensor(weights_of(experts), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weights, (a,))


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("name", ALL)
def test_degenerate_vectors_merge_to_finite_values(name: str, case: str) -> None:
    method, statistics = everything(3)[name]
    flat = degenerate()[case][:, :85]
    assert np.isfinite(merge(method, flat, [0.8, 1.0, 1.3], statistics)).all()


@pytest.mark.parametrize("name", ALL)
def test_zero_vectors_merge_to_zero(name: str) -> None:
    method, statistics = everything(3)[name]
    assert not merge(method, np.zeros((3, 85)), [0.8, 1.0, 1.3], statistics).any()


@pytest.mark.parametrize("name", ["average", "arithmetic", "ties", "fisher", "reg mean"])
def test_one_expert_merges_to_itself(name: str) -> None:
    method, statistics = (Ties(1.0), None) if name == "ties" else everything(1)[name]
    flat = few_digits(1)
    assert closeness(merge(method, flat, [1.0], statistics), flat[0]) < 1e-6
