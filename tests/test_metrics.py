"""Validation metrics against a naive version."""

import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from modules.metrics import TaskMetrics
from modules.task_batch import LossConfig, TaskBatch
from modules.task_loss import TaskOutput


def batch(name: str, ids: list[list[int]], target: list[float] | None = None) -> TaskBatch:
    goal = None if target is None else torch.tensor(target)
    return TaskBatch("t", LossConfig(name), [], torch.tensor(ids), goal)


def compute(name: str, rows: TaskBatch, *embeddings: torch.Tensor) -> dict[str, float]:
    metrics = TaskMetrics(name)
    metrics.update(TaskOutput(torch.tensor(2.0), list(embeddings)), rows)
    return {key: float(value) for key, value in metrics.compute().items()}


def test_spearman_of_graded_pairs() -> None:
    torch.manual_seed(0)
    a, b, scores = torch.randn(20, 4), torch.randn(20, 4), torch.rand(20).tolist()
    found = compute("cosent", batch("cosent", [list(range(20)), list(range(20, 40))], scores), a, b)
    assert found["spearman"] == pytest.approx(spearmanr(F.cosine_similarity(a, b), scores)[0], abs=1e-5)
    assert found["loss"] == 2.0


def test_ranking_of_pairs() -> None:
    axes = torch.eye(3)
    positives = torch.stack([axes[0], axes[0] + 0.1 * axes[1], axes[2]])  # the second is nearer to the first anchor
    found = compute("infonce", batch("infonce", [[1, 2, 3], [4, 5, 6]]), axes, positives)
    assert found["recall@1"] == pytest.approx(1.0)
    swapped = compute("infonce", batch("infonce", [[1, 2, 3], [4, 5, 6]]), axes, positives[[2, 1, 0]])
    assert swapped["recall@1"] == pytest.approx(1 / 3)
    assert swapped["mrr"] == pytest.approx((1 / 3 + 1 + 1 / 2) / 3)


def test_equal_texts_are_not_wrong() -> None:
    same = torch.eye(2)
    rows = batch("infonce", [[1, 2], [3, 3]])
    assert compute("infonce", rows, same, same[[1, 0]])["recall@1"] == 1.0
    assert compute("infonce", batch("infonce", [[1, 2], [3, 4]]), same, same[[1, 0]])["recall@1"] == 0.0


def test_labels_without_a_partner_are_left_out() -> None:
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = compute("supcon", batch("supcon", [[1, 2, 3]], [0, 0, 1]), texts)
    assert (found["recall@1"], found["mrr"]) == (1.0, 1.0)
    assert found["positive_cosine"] == pytest.approx(1 / 1.01**0.5)
