"""Canonical names of keys as they are found in published checkpoints."""

import pytest

from modules.checkpoints.checkpoint_layout import canonical_names

CASES: dict[str, dict[str, str]] = {
    "a backbone": {"embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight"},
    "bert with a head": {
        "bert.embeddings.LayerNorm.gamma": "embeddings.LayerNorm.weight",
        "bert.embeddings.LayerNorm.beta": "embeddings.LayerNorm.bias",
        "cls.predictions.bias": "cls.predictions.bias",
    },
    "distilbert": {  # its own names begin with a wrapper's prefix, but not all do
        "embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight",
        "transformer.layer.0.ffn.lin1.weight": "transformer.layer.0.ffn.lin1.weight",
    },
    "distilbert with a head": {
        "distilbert.embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight",
        "distilbert.transformer.layer.0.ffn.lin1.weight": "transformer.layer.0.ffn.lin1.weight",
        "vocab_transform.weight": "vocab_transform.weight",
    },
    "gpt2 with a head": {"transformer.wte.weight": "wte.weight", "transformer.h.0.ln_1.bias": "h.0.ln_1.bias"},
    "a decoder": {
        "embed_tokens.weight": "embed_tokens.weight",
        "layers.0.mlp.up_proj.weight": "layers.0.mlp.up_proj.weight",
    },
    "a language model": {
        "model.embed_tokens.weight": "embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight": "layers.0.mlp.up_proj.weight",
        "lm_head.weight": "lm_head.weight",
    },
    "two wrappers": {"0.auto_model.model.norm.weight": "norm.weight", "0.auto_model.model.layers.0.a": "layers.0.a"},
    "t5": {"shared.weight": "shared.weight", "encoder.block.0.layer.0.a": "encoder.block.0.layer.0.a"},
    "heads only": {"lm_head.weight": "lm_head.weight"},
}


@pytest.mark.parametrize("case", CASES)
def test_canonical_names(case: str) -> None:
    assert canonical_names(CASES[case]) == CASES[case]
