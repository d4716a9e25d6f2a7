"""Embedding in parts of equal length: the same embeddings and gradients, less padding."""

import random

import torch
from torch import Tensor

from modules.encoding.by_length import ROWS, embed_by_length
from tests.tiny_encoder import WORDS, tiny_encoder

ENCODER = tiny_encoder().eval()
UNEVEN = [" ".join(random.Random(i).choices(WORDS, k=1 + i * 7 % 25)) for i in range(2 * ROWS + 3)]


def gradients(embeddings: Tensor) -> list[Tensor]:
    goal = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
    return list(torch.autograd.grad((embeddings * goal).sum(), list(ENCODER.parameters())))


def test_same_embeddings_and_gradients_in_the_order_of_the_batch() -> None:
    features = ENCODER.tokenize(UNEVEN)
    whole, parts = ENCODER(features), embed_by_length(ENCODER, features)
    assert torch.allclose(parts, whole, atol=1e-6)
    for ours, theirs in zip(gradients(parts), gradients(whole), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_every_part_is_as_wide_as_its_longest_text() -> None:
    seen = []

    def encoder(features: dict[str, Tensor]) -> Tensor:
        seen.append(features["attention_mask"])
        return features["attention_mask"].sum(1, keepdim=True).float()

    features = ENCODER.tokenize(UNEVEN)
    lengths = embed_by_length(encoder, features)
    assert torch.equal(lengths[:, 0], features["attention_mask"].sum(1).float())
    assert [len(mask) for mask in seen] == [ROWS, ROWS, 3]
    assert all(mask.shape[1] == mask.sum(1).max() for mask in seen)


def test_a_small_batch_is_left_as_it_is() -> None:
    seen = []
    features = ENCODER.tokenize(UNEVEN[:ROWS])
    embed_by_length(lambda given: seen.append(given) or given["input_ids"], features)
    assert seen == [features]


def test_a_batch_of_full_texts_is_left_as_it_is() -> None:
    """Parts would save no padding, and make the matrix products smaller."""
    seen = []
    features = ENCODER.tokenize([" ".join(WORDS[:6])] * (3 * ROWS))
    embed_by_length(lambda given: seen.append(given) or given["input_ids"], features)
    assert seen == [features]
