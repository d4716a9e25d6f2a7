"""The score of a model on probe-validation rows, against its obvious version."""

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.neighbors import NearestCentroid
from torch.nn import functional as F

from datamodules import SplitTask, TaskData
from lightning_app.stages.probe_score import nearest_centroid_accuracy, score_of
from modules import LossConfig, TextEncoder
from tests.tiny_encoder import tiny_encoder

WORDS = ["a", "cat", "dog", "red", "blue", "the", "runs", "sleeps"]
TEXTS = [f"{WORDS[i % 8]} {WORDS[i * 3 % 7]} {WORDS[i * 5 % 8]}" for i in range(24)]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return tiny_encoder()


def split(kind: str, texts: list[list[str]], target: list[float] | None, loss: str) -> SplitTask:
    prompts: list[str | None] = [None] * len(texts)
    rows = TaskData("x", kind, texts, prompts, target, None, LossConfig(loss, 0.1))  # type: ignore[arg-type]
    half = len(rows) // 2
    return SplitTask("x", rows.subset([]), rows.subset(range(half)), rows.subset(range(half, len(rows))))


def test_graded_pairs_are_scored_by_the_rank_correlation(encoder: TextEncoder) -> None:
    scores = [i * 7 % 24 / 24 for i in range(24)]
    task = split("graded", [TEXTS, TEXTS[::-1]], scores, "cosent")
    first, second = encoder.encode(TEXTS[12:]), encoder.encode(TEXTS[::-1][12:])
    expected = spearmanr(F.cosine_similarity(first, second), scores[12:]).statistic
    assert score_of(encoder, task, None) == pytest.approx(expected, abs=1e-5)


def test_pairs_are_scored_among_all_texts(encoder: TextEncoder) -> None:
    documents = [f"{text} {text} {i % 5 * 'cat '}red" for i, text in enumerate(TEXTS)]
    task = split("pairs", [TEXTS, documents], None, "infonce")
    queries, found = TEXTS[12:], documents[12:]
    cosines = F.normalize(encoder.encode(queries)) @ F.normalize(encoder.encode(found)).T
    ranks = []
    for i, row in enumerate(cosines.tolist()):
        right = {found[j] for j in range(12) if queries[j] == queries[i]} | {queries[i]}
        ranks.append(1 + sum(row[j] >= row[i] for j in range(12) if found[j] not in right))
    assert score_of(encoder, task, None) == pytest.approx(sum(1 / rank for rank in ranks) / 12, abs=1e-5)


def test_labelled_texts_are_scored_by_the_nearest_centroid(encoder: TextEncoder) -> None:
    labels = [i % 3 for i in range(24)]
    task = split("labelled", [TEXTS], labels, "supcon")
    embeddings = encoder.encode(TEXTS)
    score = nearest_centroid_accuracy(
        embeddings[:12], torch.tensor(labels[:12]), embeddings[12:], torch.tensor(labels[12:])
    )
    assert score_of(encoder, task, None) == pytest.approx(score)


def test_the_nearest_centroid_is_that_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(60, 5, generator=draw))
    rows = torch.cat([rows, -rows])  # centroids of one length, so that the nearest is that of the largest cosine
    labels = torch.arange(120) % 4
    labels[60:] = labels[:60] + 4
    texts, expected = torch.randn(40, 5, generator=draw), torch.arange(40) % 9
    sums = torch.zeros(8, 5).index_add(0, labels, rows)
    centroids = F.normalize(sums)
    model = NearestCentroid().fit(centroids.repeat(2, 1).numpy(), [*range(8), *range(8)])
    found = torch.from_numpy(model.predict(F.normalize(texts).numpy()))
    score = nearest_centroid_accuracy(rows, labels, texts, expected)
    assert score == pytest.approx(float((found == expected).float().mean()))
    unknown = expected == 8
    assert nearest_centroid_accuracy(rows, labels, texts[unknown], expected[unknown]) == 0, "a label of no centroid"
