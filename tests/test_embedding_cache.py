"""Embeddings and tokens that are kept for texts that come again: of one task, and in a bounded amount."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.mteb import embedding_cache
from callbacks.mteb.embedding_cache import EmbeddingCache
from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import evaluate_tasks
from callbacks.mteb.task_loading import load_tasks
from modules.encoding import tokenized_texts
from modules.encoding.text_encoder import TextEncoder
from modules.encoding.tokenized_texts import KnownTokens, TokenizedTexts
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import SENTENCES, write_sts, write_xquad

pytestmark = pytest.mark.usefixtures("own_cache")


def kept_of(cache: EmbeddingCache, task: str, texts: list[str]) -> list[str]:
    return list(cache.of(task, "", texts))


def test_embeddings_of_one_task_and_prompt() -> None:
    cache = EmbeddingCache()
    assert cache.of("first", "", ["a", "b"]) == {}
    vectors = torch.randn(2, 3)
    cache.add("", ["a", "b"], vectors)
    found = cache.of("first", "", ["b", "c", "a"])
    assert list(found) == ["b", "a"] and torch.equal(found["a"], vectors[0]) and torch.equal(found["b"], vectors[1])
    assert cache.of("first", "query: ", ["a", "b"]) == {}
    assert kept_of(cache, "second", ["a", "b"]) == [] == kept_of(cache, "first", ["a", "b"])


def test_embeddings_are_a_copy() -> None:
    cache, vectors = EmbeddingCache(), torch.ones(1, 2)
    cache.of("task", "", ["a"])
    cache.add("", ["a"], vectors)
    vectors.zero_()
    assert cache.of("task", "", ["a"])["a"].tolist() == [1, 1]


def test_embeddings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "MOST_NUMBERS", 6)
    cache, texts = EmbeddingCache(), ["a", "b", "c", "d", "e"]
    cache.of("task", "", texts)
    cache.add("", ["a", "b"], torch.zeros(2, 2))
    cache.add("", ["c"], torch.zeros(1, 2))
    assert kept_of(cache, "task", texts) == ["a", "b", "c"]
    cache.add("", texts, torch.zeros(5, 2))  # a chunk of a corpus
    assert kept_of(cache, "task", texts) == ["a", "b", "c"]
    cache.add("", ["d"], torch.zeros(1, 2))
    assert kept_of(cache, "task", texts) == ["d"]


def test_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenized_texts, "MOST_BYTES", 1500)
    encoder, known = tiny_encoder(), KnownTokens()
    expected = encoder.encode(SENTENCES)
    assert torch.equal(encoder.encode(SENTENCES, tokenized=known), expected)
    kept = set(known)
    assert 0 < len(kept) < len(SENTENCES)
    assert torch.equal(encoder.encode([*SENTENCES, "a"], tokenized=known)[:-1], encoder.encode([*SENTENCES, "a"])[:-1])
    assert set(known) == kept, "the texts of a second model come in the same order"


class Recorder(TextEncoder):
    """A TextEncoder that keeps the texts that it was asked to encode."""

    def encode(self, texts: Any, prompt: str = "", **options: Any) -> Tensor:
        """Encode as ever."""
        self.seen = [*getattr(self, "seen", []), *texts]
        return super().encode(texts, prompt, **options)


@pytest.mark.parametrize("most", [2**24, 0])
def test_scores_do_not_depend_on_what_is_kept(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sts(tmp_path)
    write_xquad(tmp_path)
    tasks = load_tasks(["STSBenchmark", "XQuADRetrieval"], str(tmp_path))
    alone = {task.metadata.name: evaluate_tasks(MtebEncoder(tiny_encoder()), [task]) for task in tasks}
    monkeypatch.setattr(embedding_cache, "MOST_NUMBERS", most)
    monkeypatch.setattr(tokenized_texts, "MOST_BYTES", most)
    tiny = tiny_encoder()
    encoder = Recorder(tiny.pipeline, tiny.folder)
    wrapped = MtebEncoder(encoder, tokenized=TokenizedTexts())
    first = evaluate_tasks(wrapped, tasks)
    assert first == evaluate_tasks(wrapped, tasks)
    for name, score in first.items():
        assert score == (alone[name][name] if most else pytest.approx(alone[name][name], abs=1))
    times = Counter(encoder.seen)
    assert times["a blue dog"] == (2 if most else 4), "once per evaluation, or once per column"
    assert times["cat a cat sits"] == 2, "a document"
