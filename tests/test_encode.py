"""Encoding many texts: the same numbers however they are batched, each text once, no work on padding."""

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor

import modules.encoding.encode
from modules import Slerp
from modules.encoding.encode import plan_batches
from modules.encoding.features import Features
from modules.encoding.text_encoder import TextEncoder
from modules.encoding.text_tokenizer import TextTokenizer
from modules.encoding.tokenized_texts import TokenizedTexts
from modules.errors import UserError
from modules.merging.granularity import groups_of
from modules.merging.merge_method import Prepared
from modules.positioning.merged_encoder import MergedEncoder
from modules.positioning.position import Position
from modules.positioning.task_vectors import gram_matrices
from tests.tiny_encoder import WORDS, Settings, tiny_decoder, tiny_encoder

draw = random.Random(0)
TEXTS = [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(24)] + ["", "a cat", "a cat"]


def encoder() -> TextEncoder:
    return tiny_encoder()


def decoder() -> TextEncoder:
    return tiny_decoder(Settings("lasttoken", max_length=32))


def merged() -> MergedEncoder:
    base, expert = tiny_encoder(0), tiny_encoder(1)
    vectors = {name: (weight - base.weights()[name]).detach()[None] for name, weight in expert.weights().items()}
    position = Position(Slerp(), gram_matrices(vectors, groups_of(vectors, "model")))
    return MergedEncoder(base, {name: Prepared(vector) for name, vector in vectors.items()}, position)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [encoder, decoder, merged])
def test_neither_order_nor_batch_size_nor_chunks_matter(make: Any, side: str, monkeypatch: Any) -> None:
    model = make()
    getattr(model, "base", model).pipeline.tokenizer.padding_side = side
    alone = torch.cat([model.encode([text]) for text in TEXTS])
    for batch_size, chunk in [(1, 7), (2, 1024), (64, 10), (64, 1024)]:
        monkeypatch.setattr(modules.encoding.encode, "CHUNK", chunk)
        assert (model.encode(TEXTS[::-1], batch_size=batch_size).flip(0) - alone).abs().max() < 1e-5
    assert alone.dtype == torch.float32


def test_the_mode_is_put_back_also_after_an_error(monkeypatch: Any) -> None:
    model = tiny_encoder()
    model.train()
    assert torch.equal(model.encode(TEXTS), model.encode(TEXTS))
    assert model.training
    monkeypatch.setattr(model.backbone, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.encode(TEXTS)
    assert model.training


def test_a_text_without_any_token_has_an_embedding() -> None:
    model = decoder()
    words = model.pipeline.tokenizer.backend_tokenizer
    words.post_processor = TemplateProcessing("$A")  # no special tokens, as in GPT-2
    embeddings = model.encode(["", "a cat", "the dog runs"])
    assert embeddings.isfinite().all()
    assert (embeddings[:1] - model.encode([""])).abs().max() < 1e-5


class Seeing(TextEncoder):
    """A TextEncoder that keeps the features that went through it."""

    def forward(self, features: Features) -> Tensor:
        """Embed as ever."""
        self.seen = [*getattr(self, "seen", []), features]
        return super().forward(features)


def seeing() -> Seeing:
    tiny = tiny_encoder()
    return Seeing(tiny.pipeline, tiny.folder)


def test_a_text_is_embedded_once() -> None:
    model = seeing()
    model.encode([*TEXTS, *TEXTS])
    assert sum(len(features["input_ids"]) for features in model.seen) == len(set(TEXTS))


@pytest.mark.parametrize(("batch_size", "limit"), [(1, 1.01), (64, 1.04)])
def test_hardly_any_padding_and_no_batch_above_the_budget(batch_size: int, limit: float) -> None:
    model = seeing()
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(800)]
    model.encode(texts, batch_size=batch_size)
    sizes = [features["attention_mask"].numel() for features in model.seen]
    tokens = sum(int(features["attention_mask"].sum()) for features in model.seen)
    assert sum(sizes) < limit * tokens
    assert max(sizes) <= 32 * batch_size
    assert min(sizes[:-1]) >= 32 * batch_size / 4


def test_batches_are_of_one_length_where_they_can_be() -> None:
    assert list(plan_batches([3, 5, 5, 3, 5, 3], 12)) == [[1, 2], [4], [0, 3, 5]]
    assert list(plan_batches([3, 5, 5, 4], 1000)) == [[1, 2, 3, 0]]
    assert list(plan_batches([30], 12)) == [[0]]


def test_the_next_texts_are_tokenised_by_another_thread(monkeypatch: Any) -> None:
    model, threads = tiny_encoder(), set()
    call = type(model.tokenizer).__call__

    def noted(*args: Any, **options: Any) -> Any:
        threads.add(threading.get_ident())
        return call(*args, **options)

    monkeypatch.setattr(type(model.tokenizer), "__call__", noted)
    model.encode(TEXTS)
    assert threads and threading.get_ident() not in threads


def test_models_that_tokenise_alike_share_the_tokens(monkeypatch: Any) -> None:
    tokenized, first, second = TokenizedTexts(), tiny_encoder(0), tiny_encoder(1)
    known = tokenized.of(first.tokenizer, first.max_length)
    first.encode(TEXTS, tokenized=known)
    assert set(known) == set(TEXTS)
    assert {ids.dtype for ids in known.values()} == {np.dtype(np.int32)}
    expected = second.encode(TEXTS)
    shared = tokenized.of(second.tokenizer, second.max_length)
    monkeypatch.setattr(TextTokenizer, "__call__", None)  # nothing is left to tokenise
    assert torch.equal(second.encode(TEXTS, tokenized=shared), expected)


def test_models_that_tokenise_otherwise_do_not() -> None:
    tokenized, first, second = TokenizedTexts(), tiny_encoder(0), tiny_encoder(1)
    known = tokenized.of(first.tokenizer, 32)
    known["a cat"] = np.array([2, 3], dtype=np.int32)
    assert tokenized.of(first.tokenizer, 16) == {}
    second.pipeline.tokenizer.add_tokens(["sun"])
    assert tokenized.of(second.tokenizer, 32) == {}
    second.tokenizer.direct = False  # one whose ways cannot be compared
    assert tokenized.of(second.tokenizer, 32) == tokenized.of(second.tokenizer, 32) == {}
    assert tokenized.of(first.tokenizer, 32) is known


@pytest.mark.parametrize("make", [encoder, decoder, merged])
def test_bfloat16_is_close_and_leaves_no_trace(make: Any) -> None:
    model = make()
    exact = model.encode(TEXTS)
    rounded = model.encode(TEXTS, precision="bfloat16")
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05
    assert torch.equal(model.encode(TEXTS), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode(TEXTS), exact)


def test_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(UserError, match="no texts"):
        tiny_encoder().encode([])
    with pytest.raises(UserError, match="precision 'fp8' is unknown: use one of float32, bfloat16"):
        tiny_encoder().encode(["a"], precision="fp8")
