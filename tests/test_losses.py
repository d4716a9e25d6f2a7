"""The losses against plain loops over Python floats; gradients against differences of those loops."""

import doctest
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modules.distributed import local
from modules.losses import LOSSES, Loss
from modules.losses.cosent import cosent
from modules.losses.info_nce import info_nce, same_text_mask
from modules.losses.supervised_contrastive import supervised_contrastive
from modules.losses.task_batch import LossConfig, TaskBatch

TEMPERATURE = 0.1
ANCHORS = [1, 2, 3, 1, 5]  # the fourth row asks the first row's question
POSITIVES = [11, 12, 11, 14, 15]  # the third row's answer is the first row's
NEGATIVES = [21, 2, 12, 24, 14]  # the second is its own anchor, the third and fifth are others' positives
SCORES = [0.2, 0.9, 0.2, 0.5, 0.0]
LABELS = [0, 1, 0, 2, 0]

Rows = list[list[float]]


def cosine(u: list[float], v: list[float]) -> float:
    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    return dot(u, v) / math.sqrt(dot(u, u) * dot(v, v))


def exp_cosine(u: list[float], v: list[float]) -> float:
    return math.exp(cosine(u, v) / TEMPERATURE)


def obvious_in_batch(anchors: Rows, positives: Rows) -> float:
    return obvious_info_nce(anchors, positives, [])


def obvious_info_nce(anchors: Rows, positives: Rows, negatives: Rows) -> float:
    total = 0.0
    for i, anchor in enumerate(anchors):
        right = exp_cosine(anchor, positives[i])
        everything = right
        for j, positive in enumerate(positives):
            if POSITIVES[j] not in (POSITIVES[i], ANCHORS[i]) and ANCHORS[j] != ANCHORS[i]:
                everything += exp_cosine(anchor, positive)
        for j, negative in enumerate(negatives):
            if NEGATIVES[j] not in (POSITIVES[i], ANCHORS[i]):
                everything += exp_cosine(anchor, negative)
        total -= math.log(right / everything)
    return total / len(anchors)


def obvious_cosent(first: Rows, second: Rows) -> float:
    similarity = [cosine(u, v) for u, v in zip(first, second, strict=True)]
    total = 1.0
    for i, high in enumerate(SCORES):
        for j, low in enumerate(SCORES):
            if high > low:
                total += math.exp((similarity[j] - similarity[i]) / TEMPERATURE)
    return math.log(total)


def obvious_supervised_contrastive(texts: Rows) -> float:
    total = 0.0
    for i, text in enumerate(texts):
        others = [j for j in range(len(texts)) if j != i]
        right = [j for j in others if LABELS[j] == LABELS[i]]
        everything = sum(exp_cosine(text, texts[j]) for j in others)
        for j in right:
            total -= math.log(len(right) * exp_cosine(text, texts[j]) / everything) / len(right)
    return total


def our_info_nce(anchors: Tensor, *candidates: Tensor) -> Tensor:
    ids, own = torch.tensor(ANCHORS), torch.arange(5)
    candidate_ids = torch.tensor((POSITIVES + NEGATIVES)[: 5 * len(candidates)])
    excluded = same_text_mask(ids, ids, candidate_ids, own)
    return info_nce(anchors, torch.cat(candidates), own, excluded, TEMPERATURE)


def our_cosent(first: Tensor, second: Tensor) -> Tensor:
    return cosent(torch.cosine_similarity(first, second), torch.tensor(SCORES), TEMPERATURE)


def our_supervised_contrastive(texts: Tensor) -> Tensor:
    labels = torch.tensor(LABELS)
    return supervised_contrastive(texts, labels, texts, labels, torch.arange(5), TEMPERATURE).sum()


PAIRS: dict[str, tuple[int, Callable[..., Tensor], Callable[..., float]]] = {
    "in-batch": (2, our_info_nce, obvious_in_batch),
    "hard negatives": (3, our_info_nce, obvious_info_nce),
    "cosent": (2, our_cosent, obvious_cosent),
    "supcon": (1, our_supervised_contrastive, obvious_supervised_contrastive),
}


def random_columns(count: int) -> Tensor:
    return torch.randn(count, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slopes(loss: Callable[..., float], columns: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of a loop, entry by entry."""
    slope = torch.zeros_like(columns)
    for index in range(columns.numel()):
        moved = torch.zeros(columns.numel(), dtype=columns.dtype)
        moved[index] = step
        up, down = columns + moved.view_as(columns), columns - moved.view_as(columns)
        slope.view(-1)[index] = (loss(*up.tolist()) - loss(*down.tolist())) / (2 * step)
    return slope


@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient_are_those_of_the_loop(name: str) -> None:
    count, ours, obvious = PAIRS[name]
    columns = random_columns(count).requires_grad_()
    loss = ours(*columns)
    assert loss.item() == pytest.approx(obvious(*columns.tolist()), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, columns)
    assert torch.allclose(gradient, slopes(obvious, columns.detach()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    count, ours, _ = PAIRS[name]
    assert ours(*random_columns(count).bfloat16()).dtype == torch.float32


def test_equal_texts_are_no_negatives() -> None:
    ids, own = torch.tensor(ANCHORS), torch.arange(5)
    excluded = same_text_mask(ids, ids, torch.tensor(POSITIVES + NEGATIVES), own)
    assert {tuple(place) for place in excluded.nonzero().tolist()} == {
        (0, 2),
        (2, 0),
        (0, 3),
        (3, 0),
        (1, 6),
        (1, 7),
    } | {(3, 9)}


def test_rows_of_another_process_are_looked_up_by_their_column() -> None:
    columns = random_columns(2)
    ids, candidate_ids = torch.tensor(ANCHORS), torch.tensor(POSITIVES)
    halves = [slice(0, 2), slice(2, 5)]
    parts = []
    for rows in halves:
        own = torch.arange(5)[rows]
        excluded = same_text_mask(ids[rows], ids, candidate_ids, own)
        parts.append(info_nce(columns[0][rows], columns[1], own, excluded, TEMPERATURE) * len(own))
    assert torch.stack(parts).sum().item() / 5 == pytest.approx(our_info_nce(*columns).item(), rel=1e-12)


def test_supervised_contrastive_is_zero_where_positives_are_equal_and_negatives_far() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1])
    texts = torch.tensor([[1.0, 0.0]] * 4 + [[-1.0, 0.0]])
    losses = supervised_contrastive(texts, labels, texts, labels, torch.arange(5), 0.05)
    assert torch.allclose(losses, torch.zeros(5), atol=1e-6)


def test_a_label_seen_once_teaches_nothing_of_itself() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4])
    texts = random_columns(1)[0].requires_grad_()
    losses = supervised_contrastive(texts, labels, texts, labels, torch.arange(5), TEMPERATURE)
    assert losses.tolist() == [0.0] * 5
    assert torch.autograd.grad(losses.sum(), texts)[0].abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES.values())
def test_the_example_of_a_class_runs(loss: type[Loss]) -> None:
    names = {"torch": torch, "TaskBatch": TaskBatch, "LossConfig": LossConfig, "local": local, loss.__name__: loss}
    [example] = doctest.DocTestFinder(recurse=False).find(loss, globs=names)
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0
