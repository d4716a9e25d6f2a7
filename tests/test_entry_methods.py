"""SCE, Breadcrumbs, DELLA and LiNeS, which look at entries and layers, against whole flat vectors."""

import math
from collections.abc import Sequence

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
    Lines,
    MergeMethod,
    NuSlerp,
    Sce,
    Slerp,
    TaskArithmetic,
    Ties,
)
from modules.merging.combine import combine
from modules.merging.dropped_entries import uniform_draws
from tests.test_merging import (
    Vector,
    big,
    closeness,
    drop,
    few_digits,
    merge,
    obvious_arithmetic,
    obvious_average,
    obvious_slerp,
    obvious_ties,
    per_tensor,
    prepared,
    weights_of,
)


def obvious_sce(vectors: Vector, a: Sequence[float], density: float) -> Vector:
    variance = vectors.var(0)
    kept = max(1, int(density * np.count_nonzero(variance)))
    selected = np.where(variance >= np.sort(variance)[-kept], vectors, 0.0)
    weights = np.array(a) * (selected**2).sum(1)
    agree = selected * np.where(selected.sum(0) >= 0, 1, -1) > 0
    total = (weights[:, None] * agree).sum(0)
    return (weights[:, None] * agree * selected).sum(0) / np.where(total > 0, total, 1.0)


@pytest.mark.parametrize("density", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("experts", [2, 3, 5])
def test_sce_equals_the_flat_version_of_each_tensor(experts: int, density: float) -> None:
    flat, a = few_digits(experts), weights_of(experts)
    flat += np.random.default_rng(3).normal(size=flat.shape) * 1e-3  # no ties
    expected = per_tensor(lambda v: obvious_sce(v, a, density), flat)
    assert closeness(merge(Sce(density), flat, a), expected) < 1e-12


def test_sce_keeps_all_that_tie_and_all_where_nothing_differs() -> None:
    flat = np.zeros((2, 85))
    flat[0] = 1.0
    assert np.array_equal(merge(Sce(0.1), flat, [1.0, 1.0]), flat[0])
    alike = np.stack([few_digits(1)[0]] * 3)
    assert closeness(merge(Sce(0.1), alike, [1.0, 2.0, 3.0]), alike[0]) < 1e-12
    assert closeness(merge(Sce(0.1), alike[:1], [2.0]), alike[0]) < 1e-12


def test_sce_weighs_by_the_squares() -> None:
    flat = np.abs(few_digits(2)) + 1
    flat[1] = 3 * flat[0]
    assert closeness(merge(Sce(1.0), flat, [1.0, 1.0]), 0.1 * flat[0] + 0.9 * flat[1]) < 1e-12
    assert closeness(merge(Sce(1.0), flat, [1.0, 0.0]), flat[0]) < 1e-12
    assert closeness(merge(Sce(1.0), flat, [1.0, -1.0]), 0.1 * flat[0] - 0.9 * flat[1]) < 1e-12


def obvious_breadcrumbs(vectors: Vector, density: float, gamma: float) -> Vector:
    size = vectors.shape[1]
    kept = max(1, int(density * size))
    last = size - min(int(gamma * size), size - kept)
    left = np.zeros_like(vectors)
    for vector, row in zip(vectors, left, strict=True):
        places = np.argsort(np.abs(vector))[last - kept : last]
        row[places] = vector[places]
    return left


BOUNDS = [(0.5, 0.2), (0.9, 0.3), (0.2, 0.0), (0.001, 0.05), (1.0, 0.1)]


def without_ties(experts: int) -> Vector:
    """``[N, 85]`` of which no two magnitudes are equal."""
    draw = np.random.default_rng(4)
    return (draw.permutation(85 * experts) + 0.5).reshape(experts, 85) * draw.choice([-1, 1], (experts, 85))


@pytest.mark.parametrize(("density", "gamma"), BOUNDS)
@pytest.mark.parametrize("experts", [1, 3])
def test_breadcrumbs_equals_the_flat_version_of_each_tensor(experts: int, density: float, gamma: float) -> None:
    flat, a = without_ties(experts), weights_of(experts)
    merged = merge(Breadcrumbs(density=density, gamma=gamma), flat, a)
    left = per_tensor(lambda v: obvious_arithmetic(obvious_breadcrumbs(v, density, gamma), a), flat)
    assert closeness(merged, left) < 1e-12


def test_breadcrumbs_over_ties_is_ties_of_what_is_left() -> None:
    flat, a = without_ties(3), weights_of(3)
    merged = merge(Breadcrumbs(Ties(0.4, per_tensor=True), 0.6, 0.1), flat, a)
    expected = per_tensor(lambda v: obvious_ties(obvious_breadcrumbs(v, 0.6, 0.1), a, 0.4), flat)
    assert closeness(merged, expected) < 1e-12


def test_breadcrumbs_keeps_entries_that_tie_with_a_bound() -> None:
    vectors = torch.tensor([[2.0, -2.0, 2.0, 1.0, 1.0, 0.0]])
    assert torch.equal(Breadcrumbs(density=0.5, gamma=0.2).drop("weight", vectors.clone()), vectors)


@pytest.mark.parametrize("gamma", [-0.1, 1.0, math.nan])
def test_a_gamma_that_is_no_fraction(gamma: float) -> None:
    with pytest.raises(UserError, match=f"gamma of Breadcrumbs is {gamma}; it is a fraction from 0, below 1"):
        Breadcrumbs(gamma=gamma)


def obvious_della(vectors: Vector, draws: Vector, density: float, epsilon: float) -> Vector:
    """Drop entries of ``[N, rows, columns]`` by given draws."""
    left = np.zeros_like(vectors)
    for place in np.ndindex(vectors.shape):
        row = np.abs(vectors[place[:-1]])
        rank = (row < row[place[-1]]).sum() / (len(row) - 1)
        probability = density + epsilon * (rank - 0.5)
        if draws[place] < probability:
            left[place] = vectors[place] / probability
    return left


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.2), (0.3, 0.5), (0.9, 0.2), (1.0, 0.0)])
def test_della_equals_the_flat_version_given_its_draws(density: float, epsilon: float) -> None:
    flat = without_ties(3)[:, :66].reshape(3, 6, 11)
    draws = np.stack([draw.double().numpy() for draw in uniform_draws(7, "weight", torch.tensor(flat))])
    left = Della(Average(), density, epsilon, seed=7).drop("weight", torch.tensor(flat)).numpy()
    assert closeness(left, obvious_della(flat, draws, density, epsilon)) < 1e-12


def test_della_over_ties_averages_what_agrees() -> None:
    flat, a = without_ties(3), weights_of(3)
    left = np.concatenate([p.vectors.flatten(1).numpy() for p in prepared(Della(Average()), flat).values()], axis=1)
    assert closeness(merge(Della(), flat, a), obvious_ties(left, a, 1.0)) < 1e-12


def test_della_without_epsilon_is_dare() -> None:
    of_della, of_dare = drop(Della(Average(), 0.3, 0.0, seed=5), big(2)), drop(Dare(Average(), 0.3, seed=5), big(2))
    for name, left in of_della.items():
        assert torch.allclose(left, of_dare[name], rtol=1e-6)


def test_della_keeps_large_entries_more_often_and_the_mean() -> None:
    row = torch.arange(1.0, 101.0, dtype=torch.float64)
    left = Della(Average(), 0.5, 0.8).drop("weight", row.expand(2, 2000, 100).clone())
    often = (left != 0).double().mean((0, 1))
    expected = torch.linspace(0.1, 0.9, 100, dtype=torch.float64)
    assert (often - expected).abs().max() < 5 * (0.25 / 4000) ** 0.5
    assert float((left.mean((0, 1)) / row).mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (2, 3, 4)])
def test_della_of_tensors_of_any_shape(shape: tuple[int, ...]) -> None:
    vectors = torch.ones(2, *shape)
    assert torch.equal(Della(Average(), 1.0, 0.0).drop("weight", vectors.clone()), vectors)
    kept = Della(Average(), 0.5, 0.0).drop("weight", vectors.clone())
    assert set(kept.unique().tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 1.1), (0.9, 0.3), (1.0, 0.1), (0.2, 0.4), (0.5, -0.1)])
def test_an_epsilon_that_gives_no_probabilities(density: float, epsilon: float) -> None:
    with pytest.raises(UserError, match=f"epsilon of Della is {epsilon}: it is at least 0, and entries"):
        Della(density=density, epsilon=epsilon)


NAMES = ["embeddings.table", "layer.0.weight", "layer.1.weight", "layer.2.weight", "pooler.dense"]
FACTORS = np.array([0.2, 0.2, 0.5, 0.8, 0.8])
"""Of alpha .2, beta .6."""


def by_layer(flat: Vector) -> dict[str, Tensor]:
    return {name: torch.tensor(part) for name, part in zip(NAMES, np.split(flat, 5, axis=1), strict=True)}


def merged_by_layer(method: MergeMethod, flat: Vector, a: Sequence[float]) -> Vector:
    prepare = method.preparation(lambda: iter(by_layer(flat).items()))
    parts = {name: prepare(name, vectors) for name, vectors in by_layer(flat).items()}
    whole = torch.cat([part.vectors for part in parts.values()], 1)
    c = method.coefficients(torch.tensor(a, dtype=torch.float64), whole @ whole.T)
    return torch.cat([combine(torch.zeros(17).double(), p.vectors, c, p.importance) for p in parts.values()]).numpy()


def test_lines_scales_the_merged_task_vector() -> None:
    flat, a, factors = without_ties(3), weights_of(3), np.repeat(FACTORS, 17)
    for method, merged in (
        (Average(), obvious_average(flat, a)),
        (TaskArithmetic(), obvious_arithmetic(flat, a)),
        (Ties(0.4), obvious_ties(flat, a, 0.4)),
    ):
        assert closeness(merged_by_layer(Lines(method, 0.2, 0.6), flat, a), factors * merged) < 1e-12


def test_lines_over_slerp_takes_angles_of_scaled_vectors() -> None:
    flat, a, factors = without_ties(3), weights_of(3), np.repeat(FACTORS, 17)
    assert closeness(merged_by_layer(Lines(Slerp(), 0.2, 0.6), flat, a), obvious_slerp(factors * flat, a)) < 1e-9


def test_lines_of_one_factor_is_the_method_itself() -> None:
    flat, a = without_ties(3), weights_of(3)
    assert closeness(merged_by_layer(Lines(Slerp(), 1.0, 0.0), flat, a), obvious_slerp(flat, a)) < 1e-9


def test_lines_of_a_model_without_layers_or_with_one() -> None:
    for names, factors in ((["table"], [1.0]), (["embeddings", "layer.0.weight", "norm"], [0.25, 0.25, 1.0])):
        vectors = {name: torch.ones(2, 3) for name in names}
        prepare = Lines(Average(), 0.25, 0.75).preparation(lambda vectors=vectors: iter(vectors.items()))
        assert [float(prepare(name, v.clone()).vectors[0, 0]) for name, v in vectors.items()] == factors


@pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 0.5), (0.5, -0.6), (0.0, 0.0), (math.nan, 1.0)])
def test_factors_that_lines_does_not_take(alpha: float, beta: float) -> None:
    with pytest.raises(UserError, match="alpha and alpha .* beta of Lines are"):
        Lines(alpha=alpha, beta=beta)


@pytest.mark.parametrize("over", [Dare, Breadcrumbs, Della, Lines])
def test_a_wrapper_is_like_the_method_under_it(over: type[MergeMethod]) -> None:
    arithmetic = over(TaskArithmetic())  # type: ignore[call-arg]
    assert not arithmetic.has_scale and arithmetic.learned
    assert arithmetic.initial(4).tolist() == [0.25] * 4
    assert over(Slerp(["b", "a"])).places(["a", "b"]) == [1, 0]  # type: ignore[call-arg]
    with pytest.raises(UserError, match="NuSlerp is between two experts"):
        over(NuSlerp()).places(["a", "b", "c"])  # type: ignore[call-arg]
