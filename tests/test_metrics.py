"""Validation metrics against a naive version."""

from collections.abc import Sequence

import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from modules.losses.metrics import TaskMetrics
from modules.losses.task_batch import LossConfig, TaskBatch
from modules.losses.task_loss import TaskOutput


def batch(name: str, ids: list[list[int]], target: Sequence[float] | None = None) -> TaskBatch:
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
    assert swapped["mrr"] == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)


@pytest.mark.parametrize("name", ["infonce", "supcon", "cosent"])
def test_autocast_does_not_reach_the_metrics(name: str) -> None:
    torch.manual_seed(0)
    columns = 1 if name == "supcon" else 2
    rows = batch(name, torch.arange(20 * columns).view(columns, 20).tolist(), [float(i % 5) for i in range(20)])
    embeddings = torch.randn(columns, 20, 8)
    expected = compute(name, rows, *embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        assert compute(name, rows, *embeddings) == expected


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


def naive_ranking(similarity: list[list[float]], right: list[set[int]], left_out: list[set[int]]) -> dict[str, float]:
    """Metrics of rows of similarities, given the right columns and those that do not count."""
    ranks, positive, negative = [], [], []
    for row, good, ignored in zip(similarity, right, left_out, strict=True):
        if not good:
            continue
        wrong = [value for column, value in enumerate(row) if column not in good | ignored]
        ranks.append(1 + sum(value >= max(row[column] for column in good) for value in wrong))
        positive += [row[column] for column in good]
        negative += wrong
    return {
        "recall@1": sum(rank == 1 for rank in ranks) / len(ranks),
        "mrr": sum(1 / rank for rank in ranks) / len(ranks),
        "positive_cosine": sum(positive) / len(positive),
        "negative_cosine": sum(negative) / len(negative),
    }


def cosines(rows: torch.Tensor, columns: torch.Tensor) -> list[list[float]]:
    return [[float(F.cosine_similarity(row, column, dim=0)) for column in columns] for row in rows]


def test_pairs_with_hard_negatives_equal_the_naive_version() -> None:
    torch.manual_seed(0)
    anchors, positives, negatives = torch.randn(3, 6, 3)
    positives += anchors  # so that some, not all, are found
    ids = [[0, 1, 2, 0, 4, 5], [10, 11, 12, 13, 10, 15], [20, 21, 10, 1, 24, 25]]
    found = compute("infonce", batch("infonce", ids), anchors, positives, negatives)
    left_out: list[set[int]] = [set() for _ in range(6)]
    for i in range(6):
        for column, text in enumerate(ids[1] + ids[2]):
            same_anchor = column < 6 and ids[0][column] == ids[0][i]
            if column != i and (text in (ids[1][i], ids[0][i]) or same_anchor):
                left_out[i].add(column)
    similarity = cosines(anchors, torch.cat([positives, negatives]))
    expected = naive_ranking(similarity, [{i} for i in range(6)], left_out)
    assert 0 < expected["recall@1"] < expected["mrr"] < 1
    assert found == pytest.approx({"loss": 2.0, **expected}, abs=1e-6)


def test_labelled_texts_equal_the_naive_version() -> None:
    torch.manual_seed(1)
    texts, labels = torch.randn(7, 3), [0, 1, 0, 2, 1, 0, 3]
    found = compute("supcon", batch("supcon", [list(range(7))], labels), texts)
    right = [{j for j in range(7) if j != i and labels[j] == labels[i]} for i in range(7)]
    expected = naive_ranking(cosines(texts, texts), right, [{i} for i in range(7)])
    assert found == pytest.approx({"loss": 2.0, **expected}, abs=1e-6)


def test_batches_count_by_their_rows_and_an_epoch_starts_anew() -> None:
    metrics = TaskMetrics("infonce")
    for rows, loss in ((2, 1.0), (6, 3.0)):
        texts = torch.eye(8)[:rows]
        ids = [list(range(rows)), list(range(10, 10 + rows))]
        metrics.update(TaskOutput(torch.tensor(loss), [texts, texts]), batch("infonce", ids))
    assert metrics.compute()["loss"].item() == pytest.approx(2.5)
    metrics.update(TaskOutput(torch.tensor(7.0), [torch.eye(2)] * 2), batch("infonce", [[1, 2], [3, 4]]))
    assert metrics.compute()["loss"].item() == 7.0


def test_a_collapsed_model_has_found_nothing() -> None:
    same = torch.ones(4, 3)
    found = compute("infonce", batch("infonce", [[1, 2, 3, 4], [5, 6, 7, 8]]), same, same)
    assert (found["recall@1"], found["mrr"]) == (0.0, 0.25)
