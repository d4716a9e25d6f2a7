"""Intervals of differences against the obvious way to compute them."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from modules.bootstrap import interval, mean_differences, spearman_differences


def data(size: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    gold = draw.integers(0, 5, size).astype(float)  # with ties
    return gold, gold + draw.normal(0, 3, size), gold + draw.normal(0, 1, size)


def test_spearman_differences_are_those_of_the_resampled_pairs() -> None:
    gold, a, b = data()
    rows = np.random.default_rng(7).integers(0, len(gold), (20, len(gold)))
    expected = [spearmanr(gold[i], b[i])[0] - spearmanr(gold[i], a[i])[0] for i in rows]
    np.testing.assert_allclose(spearman_differences(gold, a, b, resamples=20, seed=7), expected)


def test_mean_differences_are_those_of_the_resampled_queries() -> None:
    _, a, b = data()
    rows = np.random.default_rng(7).integers(0, len(a), (20, len(a)))
    np.testing.assert_allclose(mean_differences(a, b, resamples=20, seed=7), [b[i].mean() - a[i].mean() for i in rows])


def test_interval_of_means_agrees_with_the_normal_one() -> None:
    difference = np.random.default_rng(2).normal(0.3, 1, 2000)
    low, high = interval(mean_differences(np.zeros(2000), difference, resamples=4000))
    wide = 1.96 * difference.std() / np.sqrt(2000)
    assert low == pytest.approx(difference.mean() - wide, abs=0.1 * wide)
    assert high == pytest.approx(difference.mean() + wide, abs=0.1 * wide)


def test_equal_models_do_not_differ_and_constant_ones_correlate_with_nothing() -> None:
    gold, a, _ = data()
    assert interval(spearman_differences(gold, a, a)) == (0.0, 0.0)
    constant = spearman_differences(gold, np.zeros_like(gold), gold, resamples=5)
    np.testing.assert_allclose(constant, 1.0)


def test_the_same_seed_gives_the_same_interval_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    gold, a, b = data()
    first = spearman_differences(gold, a, b, resamples=30)
    monkeypatch.setattr("modules.bootstrap.CHUNK", 100)
    np.testing.assert_array_equal(spearman_differences(gold, a, b, resamples=30), first)
