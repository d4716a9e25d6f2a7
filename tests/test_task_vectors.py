"""Task vectors: taken, measured, and refused where models do not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from modules import TextEncoder, UserError
from modules.positioning.task_vectors import gram_matrices, load_task_vectors
from tests.tiny_encoder import Settings, loaded, tiny_encoder, tiny_tokenizer


def flat(encoder: TextEncoder) -> np.ndarray:
    return np.concatenate([p.detach().double().numpy().ravel() for p in encoder.weights().values()])


def saved(encoder: TextEncoder, folder: Path) -> str:
    encoder.save(folder)
    return str(folder)


def loaded_base(folder: Path) -> TextEncoder:
    return TextEncoder.load(saved(tiny_encoder(), folder / "base"))


def test_vectors_and_gram_are_those_of_the_concatenated_weights(tmp_path: Path) -> None:
    base = loaded_base(tmp_path)
    before = flat(base)
    experts = [tiny_encoder(seed) for seed in (1, 2, 3)]
    folders = {str(i): saved(expert, tmp_path / str(i)) for i, expert in enumerate(experts)}
    vectors = load_task_vectors(base, folders)
    expected = np.stack([flat(expert) - before for expert in experts])
    found = torch.cat([v.flatten(1) for v in vectors.values()], dim=1).double().numpy()
    assert np.allclose(found[:, found.any(0)], expected[:, expected.any(0)], atol=1e-7)
    assert np.allclose(
        gram_matrices(vectors, dict.fromkeys(vectors, "model"))[0].numpy(), expected @ expected.T, rtol=1e-6, atol=1e-6
    )
    assert np.array_equal(flat(base), before)


def test_parameters_that_no_expert_changed_are_left_out(tmp_path: Path) -> None:
    expert = tiny_encoder()
    name = "encoder.layer.0.output.dense.weight"
    with torch.no_grad():
        expert.backbone.get_parameter(name)[0, 0] += 1
    vectors = load_task_vectors(
        loaded_base(tmp_path), {"one": saved(expert, tmp_path / "e"), "base": saved(tiny_encoder(), tmp_path / "b")}
    )
    assert list(vectors) == [name]
    assert vectors[name][0].sum().item() == pytest.approx(1)
    assert not vectors[name][1].any()


def resized(**shape: int) -> TextEncoder:
    expert = tiny_encoder()
    torch.manual_seed(0)
    other = BertConfig(**{**expert.backbone.config.to_dict(), **shape})
    return loaded(BertModel(other, add_pooling_layer=False), tiny_tokenizer(), Settings(max_length=32))


def with_word() -> TextEncoder:
    """A word of the vocabulary renamed: all shapes stay."""
    words = tiny_tokenizer().backend_tokenizer
    other = type(words).from_str(words.to_str().replace('"cat"', '"cow"'))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=other, pad_token="[PAD]", unk_token="[UNK]")
    return loaded(tiny_encoder().backbone, tokenizer, Settings(max_length=32))


def configured(**change: Any) -> TextEncoder:
    return tiny_encoder(config=replace(Settings(max_length=32), **change))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: resized(num_hidden_layers=1),
            r"lacks weights of the base \(16\): encoder.layer.1.attention",
        ),
        (lambda: resized(num_hidden_layers=3), r"has weights that the base lacks \(16\): encoder.layer.2."),
        (lambda: resized(intermediate_size=8), r"other shapes.*layer.0.intermediate.dense.bias \[8\] for \[32\]"),
        (lambda: resized(num_attention_heads=4), "has num_attention_heads 4, the base 2"),
        (with_word, "has another vocabulary: token 'cat' is not there, in the base 8"),
        (lambda: configured(pooling="cls"), r"has pooling \['cls'\], the base \['mean'\]"),
        (
            lambda: configured(normalize=False),
            "has modules 'Transformer > Pooling', the base 'Transformer > Pooling > Normalize'",
        ),
        (lambda: configured(prompts={"query": "query : "}), r"has prompts {'query': 'query : '}, the base {}"),
        (lambda: configured(max_length=16), "has max_length 16, the base 32"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(tmp_path: Path, make: Callable[[], TextEncoder], message: str) -> None:
    folder = saved(make(), tmp_path / "expert")
    with pytest.raises(UserError, match=message) as error:
        load_task_vectors(loaded_base(tmp_path), {"qa": folder})
    assert str(error.value).startswith(f"expert 'qa' ({folder}) has") or "lacks" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_expert_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model '.*/missing' not found"):
        load_task_vectors(loaded_base(tmp_path), {"qa": str(tmp_path / "missing")})
