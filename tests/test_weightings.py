"""Fixed weightings of the experts."""

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.merging.weightings import greedy_soup, inverse_norm, lm_cocktail, size_weighted

LOSSES = [0.9, 0.4, 0.6]


def test_sizes_are_shares() -> None:
    c = size_weighted([100, 300, 600])
    assert c.dtype == torch.float64
    assert c.tolist() == pytest.approx([0.1, 0.3, 0.6])


def test_equal_sizes_are_the_soup() -> None:
    assert size_weighted([7, 7, 7, 7]).tolist() == [0.25] * 4


def test_inverse_norms_equal_the_flat_version() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 50)) * np.array([[1.0], [2.0], [5.0]])
    inverse = 1 / np.linalg.norm(vectors, axis=1)
    c = inverse_norm(torch.tensor(vectors @ vectors.T), scale=0.7)
    assert c.dtype == torch.float64
    assert np.allclose(c.numpy(), 0.7 * inverse / inverse.sum(), rtol=1e-12)


def test_inverse_norms_move_the_base_equally_far() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 50)) * np.array([[1.0], [2.0], [5.0]])
    c = inverse_norm(torch.tensor(vectors @ vectors.T)).numpy()
    moved = np.linalg.norm(c[:, None] * vectors, axis=1)
    assert moved == pytest.approx([moved[0]] * 3)
    assert c.sum() == pytest.approx(1)


def test_a_zero_vector_takes_no_part_in_inverse_norms() -> None:
    gram = torch.diag(torch.tensor([1.0, 0.0, 4.0]))
    assert inverse_norm(gram).tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    assert inverse_norm(torch.zeros(2, 2), scale=3.0).tolist() == pytest.approx([1.5, 1.5])


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1, 5])
def test_lm_cocktail_equals_the_flat_version(temperature: float) -> None:
    weights = np.exp(-np.array(LOSSES) / temperature)
    c = lm_cocktail(LOSSES, temperature)
    assert c.dtype == torch.float64
    assert np.allclose(c.numpy(), weights / weights.sum(), rtol=1e-12)


def test_the_base_takes_its_share_of_a_cocktail() -> None:
    weights = np.exp(-np.array([*LOSSES, 0.5]) / 0.1)
    c = lm_cocktail(LOSSES, 0.1, base_loss=0.5)
    assert np.allclose(c.numpy(), (weights / weights.sum())[:3], rtol=1e-12)
    assert 1 - float(c.sum()) == pytest.approx(weights[3] / weights.sum())


def test_temperature_says_how_sharp_a_cocktail_is() -> None:
    assert lm_cocktail(LOSSES, 1e-3).tolist() == pytest.approx([0, 1, 0], abs=1e-12)
    assert lm_cocktail(LOSSES, 1e6).tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_a_cocktail_of_large_losses_is_finite() -> None:
    assert lm_cocktail([1e4, 2e4], 0.05).tolist() == [1.0, 0.0]


class Evaluation:
    """Distance to a target in the plane of the experts; remembers where it was asked."""

    def __init__(self, experts: list[list[float]], target: list[float]) -> None:
        self.experts = torch.tensor(experts, dtype=torch.float64)
        self.target = torch.tensor(target, dtype=torch.float64)
        self.asked: list[list[float]] = []

    def __call__(self, c: Tensor) -> float:
        self.asked.append(c.tolist())
        return float((c @ self.experts - self.target).norm())

    @property
    def losses(self) -> list[float]:
        return [float((expert - self.target).norm()) for expert in self.experts]


def test_greedy_soup_keeps_what_helps() -> None:
    # The best alone is right of the target, the second left of it, the third far above.
    evaluation = Evaluation([[0.0, 9.0], [-1.2, 0.0], [1.0, 0.0]], [0.0, 0.0])
    c = greedy_soup(evaluation.losses, evaluation)
    assert c.dtype == torch.float64
    assert c.tolist() == [0.0, 0.5, 0.5]


def test_greedy_soup_tries_the_best_first_and_every_expert_once() -> None:
    evaluation = Evaluation([[0.0, 9.0], [-1.2, 0.0], [1.0, 0.0]], [0.0, 0.0])
    greedy_soup(evaluation.losses, evaluation)
    assert evaluation.asked == [[0, 0, 1], [0, 0.5, 0.5], pytest.approx([1 / 3] * 3)]


def test_greedy_soup_goes_on_after_an_expert_that_does_not_help() -> None:
    evaluation = Evaluation([[1.0, 0.0], [1.1, 0.0], [-1.2, 0.0]], [0.0, 0.0])
    assert greedy_soup(evaluation.losses, evaluation).tolist() == [0.5, 0.0, 0.5]


def test_greedy_soup_of_experts_that_do_not_help_is_the_best_one() -> None:
    evaluation = Evaluation([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [0.0, 0.0])
    assert greedy_soup(evaluation.losses, evaluation).tolist() == [0.0, 1.0, 0.0]


def test_greedy_soup_of_experts_that_all_help_is_the_soup() -> None:
    evaluation = Evaluation([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]], [0.0, 0.0])
    assert greedy_soup(evaluation.losses, evaluation).tolist() == pytest.approx([1 / 3] * 3)


def test_a_greedy_soup_is_not_worse_than_any_of_its_steps() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        evaluation = Evaluation(generator.normal(size=(5, 2)).tolist(), [0.0, 0.0])
        c = greedy_soup(evaluation.losses, evaluation)
        tried = list(evaluation.asked)
        assert evaluation(c) == min(evaluation(torch.tensor(x, dtype=torch.float64)) for x in tried)


def test_equal_experts_do_not_improve_a_greedy_soup() -> None:
    evaluation = Evaluation([[1.0, 0.0], [1.0, 0.0]], [0.0, 0.0])
    assert greedy_soup(evaluation.losses, evaluation).tolist() == [1.0, 0.0]
