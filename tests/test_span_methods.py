"""NuSLERP and Model Stock, and where the Karcher mean is not the spherical mean, against whole flat vectors."""

import numpy as np
import pytest
import torch

from modules.errors import UserError
from modules.merging import Average, Karcher, ModelStock, NuSlerp, SphericalMean
from modules.on_disk.plan import Plan
from modules.positioning.position import Position
from tests.test_merging import (
    Vector,
    closeness,
    coefficients,
    degenerate,
    flat_vectors,
    gram_of,
    obvious_average,
    obvious_slerp,
    related_vectors,
)


@pytest.mark.parametrize("a", [[1.0, 1.0], [0.3, 2.0], [0.0, 1.0], [5.0, 0.0]])
def test_nu_slerp_is_slerp_of_two(a: list[float]) -> None:
    vectors = related_vectors(2)
    assert closeness(coefficients(NuSlerp(), a, vectors) @ vectors, obvious_slerp(vectors, a)) < 1e-9


def test_nu_slerp_negates_a_vector_of_negative_weight() -> None:
    vectors = related_vectors(2)
    expected = obvious_slerp(vectors * [[1], [-1]], [0.5, 1.5])
    assert closeness(coefficients(NuSlerp(), [0.5, -1.5], vectors) @ vectors, expected) < 1e-9


@pytest.mark.parametrize("case", ["identical", "zero", "first zero", "parallel", "antiparallel"])
def test_nu_slerp_takes_the_linear_limit(case: str) -> None:
    assert coefficients(NuSlerp(), [0.5, 1.5], degenerate()[case][:2]) == pytest.approx([0.25, 0.75])


def test_nu_slerp_is_learned_between_two() -> None:
    a = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    gram = gram_of(flat_vectors(2))
    assert torch.autograd.gradcheck(lambda x: NuSlerp().coefficients(x, gram), (a,))
    assert coefficients(NuSlerp(), [2.0], flat_vectors(1)) == pytest.approx([1.0])


def test_nu_slerp_of_three_is_refused_in_both_routes() -> None:
    message = "NuSlerp is between two experts, not 3; use spherical_mean, karcher or slerp for more"
    gram = gram_of(flat_vectors(3))
    with pytest.raises(UserError, match=message):
        Plan("base", dict.fromkeys("abc", "folder"), NuSlerp()).coefficients(gram)
    with pytest.raises(UserError, match=message):
        Position(NuSlerp(), gram).coefficients()


def test_a_long_vector_turns_the_spherical_mean_and_not_the_karcher_mean() -> None:
    vectors = related_vectors(3)
    longer = vectors * [[1], [10], [1]]
    of_karcher, of_spherical = (
        [coefficients(m, [1, 1, 1], v) @ v for v in (vectors, longer)] for m in (Karcher(), SphericalMean())
    )

    def cosine(u: Vector, v: Vector) -> float:
        return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    assert cosine(*of_karcher) == pytest.approx(1)
    assert cosine(*of_spherical) < 0.99
    assert np.linalg.norm(of_karcher[1]) == pytest.approx(np.linalg.norm(longer, axis=1).mean())


def obvious_model_stock(vectors: Vector, a: list[float]) -> Vector:
    """Project an estimate of the centre on the line to the average: a centre with the mean cosine to all directions."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    cos = np.mean([units[i] @ units[j] for i, j in pairs])
    # noise of unit models: <v_i, v_j> = cos for i != j, 1 for i = j; the centre has <centre, v_i> = cos
    w = np.array(a) / sum(a)
    square = w @ (cos + (1 - cos) * np.eye(len(a))) @ w
    return cos / square * obvious_average(vectors, a)


@pytest.mark.parametrize("experts", [2, 3, 5])
def test_model_stock_equals_the_flat_version(experts: int) -> None:
    vectors = related_vectors(experts)
    a = np.random.default_rng(1).uniform(0.3, 3, experts).tolist()
    assert closeness(coefficients(ModelStock(), a, vectors) @ vectors, obvious_model_stock(vectors, a)) < 1e-12


@pytest.mark.parametrize("experts", [2, 3, 5])
def test_model_stock_of_equal_weights_is_the_paper_s_formula(experts: int) -> None:
    vectors = related_vectors(experts)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cos = (units @ units.T)[~np.eye(experts, dtype=bool)].mean()
    t = experts * cos / (1 + (experts - 1) * cos)
    assert coefficients(ModelStock(), [1.0] * experts, vectors) == pytest.approx(np.full(experts, t / experts))


def test_model_stock_finds_a_centre_in_noise() -> None:
    draw = np.random.default_rng(0)
    centre = draw.normal(size=20_000)
    vectors = centre + 2 * draw.normal(size=(4, 20_000))
    merged, average = (coefficients(m, [1] * 4, vectors) @ vectors for m in (ModelStock(), Average()))
    nearest = (centre @ average) / (average @ average) * average
    assert np.linalg.norm(merged - nearest) < 0.02 * np.linalg.norm(centre)
    assert np.linalg.norm(merged - centre) < np.linalg.norm(average - centre)


def test_model_stock_pulls_one_model_back_by_its_angle_to_others() -> None:
    vectors = related_vectors(2)
    cos = vectors[0] @ vectors[1] / np.prod(np.linalg.norm(vectors, axis=1))
    assert coefficients(ModelStock(), [1.0, 0.0], vectors) == pytest.approx([cos, 0.0])


def test_model_stock_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="ModelStock takes the angle between task vectors, and 'a' is one; to pull it"):
        Plan("base", {"a": "folder"}, ModelStock()).coefficients(gram_of(flat_vectors(1)))


def test_model_stock_without_an_angle() -> None:
    u, v = related_vectors(2)
    zero = np.zeros_like(u)
    assert coefficients(ModelStock(), [1, 3], np.stack([u, 2 * u])) == pytest.approx([0.25, 0.75])  # no noise
    assert coefficients(ModelStock(), [1, 3], np.stack([u, -u])).tolist() == [0, 0]  # nothing but noise
    assert coefficients(ModelStock(), [1, 3], np.stack([u, zero])).tolist() == [1, 0]
    assert coefficients(ModelStock(), [1, 3], np.stack([zero, zero])) == pytest.approx([0.25, 0.75])
    three = coefficients(ModelStock(), [1, 5, 1], np.stack([u, zero, v]))
    assert three[[0, 2]] == pytest.approx(coefficients(ModelStock(), [1, 1], np.stack([u, v])))
    subtracted = coefficients(ModelStock(), [1, -1], np.stack([u, -v]))
    assert subtracted * [1, -1] == pytest.approx(coefficients(ModelStock(), [1, 1], np.stack([u, v])))


def test_model_stock_says_that_it_is_not_learned() -> None:
    Average().refuse_learning()
    with pytest.raises(UserError, match="method: ModelStock fixes its own numbers, which leaves nothing to learn"):
        ModelStock().refuse_learning()
