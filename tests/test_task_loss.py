"""The one loss engine against the obvious loops, gradients too."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.distributed import local
from modules.losses.loss import make_loss
from modules.losses.task_batch import NO_TEXT, LossConfig, TaskBatch
from modules.losses.task_loss import task_loss

TEMPERATURE = 0.07


def batch(name: str, ids: list[list[int]], target: list[float] | None = None) -> TaskBatch:
    """A batch whose 'features' are row numbers, so that an 'encoder' can look embeddings up."""
    columns = [{"input_ids": torch.arange(len(column)) + 100 * c} for c, column in enumerate(ids)]
    goal = None if target is None else torch.tensor(target)
    return TaskBatch("t", LossConfig(name, TEMPERATURE), columns, torch.tensor(ids), goal)


def run(rows: TaskBatch, embeddings: list[Tensor]) -> Tensor:
    def encoder(features: dict[str, Tensor]) -> Tensor:
        first = int(features["input_ids"][0])
        return embeddings[first // 100]

    return task_loss(encoder, rows, local).loss


def random_embeddings(columns: int, rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 5, generator=generator, requires_grad=True) for _ in range(columns)]


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def obvious_info_nce(rows: TaskBatch, embeddings: list[Tensor]) -> Tensor:
    anchors, *others = embeddings
    ids = rows.text_ids.tolist()
    losses = []
    for i in range(len(rows)):
        own = cos(anchors[i], others[0][i]) / TEMPERATURE
        terms = [own]
        for column, texts in enumerate(others):
            for j in range(len(rows)):
                text = ids[column + 1][j]
                same_query = column == 0 and ids[0][j] == ids[0][i]
                if (column, j) == (0, i) or text in (ids[1][i], ids[0][i]) or same_query:
                    continue
                terms.append(cos(anchors[i], texts[j]) / TEMPERATURE)
        losses.append(torch.logsumexp(torch.stack(terms), 0) - own)
    return torch.stack(losses).mean()


def obvious_cosent(rows: TaskBatch, embeddings: list[Tensor]) -> Tensor:
    assert rows.target is not None
    scores = rows.target.tolist()
    similarity = [cos(a, b) / TEMPERATURE for a, b in zip(*embeddings, strict=True)]
    total = torch.tensor(1.0)
    for i, higher in enumerate(scores):
        for j, lower in enumerate(scores):
            if higher > lower:
                total = total + (similarity[j] - similarity[i]).exp()
    return total.log()


def obvious_supcon(rows: TaskBatch, embeddings: list[Tensor]) -> Tensor:
    assert rows.target is not None
    (texts,), labels = embeddings, rows.target.tolist()
    losses = []
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if j != i]
        denominator = torch.logsumexp(torch.stack([cos(texts[i], texts[j]) / TEMPERATURE for j in others]), 0)
        positives = [cos(texts[i], texts[j]) / TEMPERATURE - denominator for j in others if labels[j] == labels[i]]
        if positives:
            losses.append(-torch.stack(positives).mean() - math.log(len(positives)))
    return torch.stack(losses).mean()


CASES = {
    "in-batch": (batch("infonce", [[1, 2, 3, 4], [5, 6, 7, 8]]), obvious_info_nce),
    "hard negatives": (batch("infonce", [[1, 2, 3], [5, 6, 7], [8, 9, 10], [11, 12, 13]]), obvious_info_nce),
    "equal positives": (batch("infonce", [[1, 2, 3, 4], [5, 6, 5, 8], [9, 5, 10, 11]]), obvious_info_nce),
    "equal anchors": (batch("infonce", [[1, 1, 3, 4], [5, 6, 7, 1]]), obvious_info_nce),
    "cosent": (batch("cosent", [[1, 2, 3, 4], [5, 6, 7, 8]], [0.1, 0.9, 0.9, 0.4]), obvious_cosent),
    "supcon": (batch("supcon", [[1, 2, 3, 4, 5]], [0, 1, 0, 2, 0]), obvious_supcon),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_the_loop(case: str) -> None:
    rows, obvious = CASES[case]
    embeddings = random_embeddings(len(rows.text_ids), len(rows))
    loss, expected = run(rows, embeddings), obvious(rows, embeddings)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, embeddings), torch.autograd.grad(expected, embeddings)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_negative_that_a_row_lacks_is_no_candidate() -> None:
    """Against each row with a list of its own negatives, of all rows."""
    rows = batch("infonce", [[1, 2, 3], [4, 5, 6], [7, NO_TEXT, 8], [9, NO_TEXT, NO_TEXT]])
    embeddings = random_embeddings(4, 3)
    anchors, positives, *_ = embeddings
    negatives = [embeddings[2][0], embeddings[3][0], embeddings[2][2]]
    candidates = torch.stack([*positives, *negatives])
    each = [
        torch.logsumexp(torch.stack([cos(anchor, other) for other in candidates]) / TEMPERATURE, 0)
        - cos(anchor, positive) / TEMPERATURE
        for anchor, positive in zip(anchors, positives, strict=True)
    ]
    loss, expected = run(rows, embeddings), torch.stack(each).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, embeddings), torch.autograd.grad(expected, embeddings)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert gradients[0][2][1].eq(0).all() and gradients[0][3][1:].eq(0).all()
    infonce = make_loss(rows.loss)
    for row, of_row in enumerate(each):
        assert infonce.row_loss(embeddings, rows, row).item() == pytest.approx(of_row.item(), rel=1e-5)
    wrong = infonce.observations(embeddings, rows)["negative_cosine"][0]
    assert len(wrong) == 3 * (len(candidates) - 1)


@pytest.mark.parametrize("temperature", [0.05, 0.02, 0.01])
@pytest.mark.parametrize("case", CASES)
def test_autocast_does_not_reach_the_loss(case: str, temperature: float) -> None:
    """The cosines and their division by the temperature are in float32, whatever the encoder computes in."""
    rows = CASES[case][0]
    rows = replace(rows, loss=LossConfig(rows.loss.name, temperature))
    embeddings = random_embeddings(len(rows.text_ids), len(rows))
    expected = run(rows, embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        loss = run(rows, embeddings)
    assert torch.equal(loss, expected)
    for ours, theirs in zip(*(torch.autograd.grad(of, embeddings) for of in (loss, expected)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_embeddings_of_half_precision_are_compared_in_float32() -> None:
    rows = CASES["hard negatives"][0]
    half = [embeddings.detach().bfloat16() for embeddings in random_embeddings(len(rows.text_ids), len(rows))]
    assert torch.equal(run(rows, half), run(rows, [embeddings.float() for embeddings in half]))


def test_equal_scores_teach_nothing() -> None:
    rows = batch("cosent", [[1, 2], [3, 4]], [0.5, 0.5])
    embeddings = random_embeddings(2, 2)
    loss = run(rows, embeddings)
    assert loss.item() == 0
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(loss, embeddings))


def test_chance_is_the_logarithm_of_the_candidates() -> None:
    same = [F.normalize(torch.ones(4, 3), dim=1) for _ in range(2)]
    assert run(batch("infonce", [[1, 2, 3, 4], [5, 6, 7, 8]]), same).item() == pytest.approx(math.log(4))
