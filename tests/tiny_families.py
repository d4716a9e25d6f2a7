"""Tiny models of many families, built from configs, saved as sentence-transformers folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

LINES = [
    "the red cat sits on the blue mat",
    "a dog runs after the ball",
    "query: what is the sky made of",
    "passage: the sky is blue because of scattered light",
    "how do I reset my card pin",
    "Zürich liegt am See",
] * 5

TEXTS = [
    "a red cat",
    "The Sky is Blue because of scattered light, how do I reset my card pin after the ball",
    "  Zürich liegt  am See ",
    "dog",
    "query: what is the sky made of",
]


def wordpiece(lower: bool = True, **options: Any) -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer."""
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=lower)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    words.decoder = decoders.WordPiece()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names, mask_token="[MASK]", **options)


def byte_pairs(special: list[str], post: Any = None, **options: Any) -> PreTrainedTokenizerFast:
    """GPT-2's kind of tokenizer."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(LINES, trainer)
    if post is not None:
        words.post_processor = post
    words.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=words, **options)


def roberta(**options: Any) -> PreTrainedTokenizerFast:
    """RoBERTa's kind of tokenizer, without a longest text unless told."""
    post = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return byte_pairs(special, post, **names, unk_token="<unk>", mask_token="<mask>", **options)


def decoder(eos: bool = True, pad: bool = True, **options: Any) -> PreTrainedTokenizerFast:
    """A decoder's kind of tokenizer: padding on the left, the end of the text marked if told."""
    end = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 0)]) if eos else None
    names = {"eos_token": "<end>"} | ({"pad_token": "<pad>"} if pad else {})
    return byte_pairs(["<end>", "<pad>"], end, **names, **({"padding_side": "left"} | options))


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ROPE = SMALL | {"num_key_value_heads": 1, "max_position_embeddings": 64}


def _backbone(
    name: str, tokenizer: PreTrainedTokenizerFast, model: str = "", **config: Any
) -> transformers.PreTrainedModel:
    settings = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **config)
    torch.manual_seed(0)
    made: transformers.PreTrainedModel = getattr(transformers, model or f"{name}Model")(settings)
    return made


Parts = tuple[transformers.PreTrainedModel, PreTrainedTokenizerFast]

BACKBONES: dict[str, Callable[[], Parts]] = {}


def _family(name: str, tokenizer: Callable[[], PreTrainedTokenizerFast], kind: str, **config: Any) -> None:
    def make() -> Parts:
        words = tokenizer()
        return _backbone(kind, words, **config), words

    BACKBONES[name] = make


_family("bert", wordpiece, "Bert", **SMALL, max_position_embeddings=64)
_family("xlm-roberta", roberta, "XLMRoberta", **SMALL, max_position_embeddings=66, pad_token_id=1)
_family("mpnet", lambda: roberta(model_max_length=64), "MPNet", **SMALL, max_position_embeddings=66, pad_token_id=1)
_family("distilbert", wordpiece, "DistilBert", dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64)
_family("albert", wordpiece, "Albert", **SMALL, embedding_size=8, max_position_embeddings=64)
_family(
    "deberta",
    wordpiece,
    "DebertaV2",
    **SMALL,
    max_position_embeddings=64,
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
    position_buckets=8,
    share_att_key=True,
    norm_rel_ebd="layer_norm",
)
_family(
    "modernbert", wordpiece, "ModernBert", **SMALL, max_position_embeddings=64, pad_token_id=0, local_attention=8,
    global_attn_every_n_layers=2,
)  # fmt: skip
_family(
    "t5", lambda: decoder(padding_side="right"), "T5", model="T5EncoderModel", d_model=16, d_kv=8, d_ff=32,
    num_layers=2, num_heads=2, pad_token_id=1, eos_token_id=0,
)  # fmt: skip
_family(
    "gpt2", lambda: decoder(eos=False, pad=False), "GPT2", n_embd=16, n_layer=2, n_head=2, n_positions=64,
    bos_token_id=0, eos_token_id=0,
)  # fmt: skip
_family("llama", lambda: decoder(eos=False, pad=False), "Llama", **ROPE, rope_theta=500.0)
_family("mistral", decoder, "Mistral", **ROPE, sliding_window=8, rope_theta=500.0)
_family("qwen3", decoder, "Qwen3", **ROPE, head_dim=8, rope_theta=500.0)
_family(
    "gemma3", lambda: decoder(padding_side="right"), "Gemma3Text", model="Gemma3TextModel", **ROPE, head_dim=8,
    sliding_window=8, use_bidirectional_attention=True, pad_token_id=1, eos_token_id=0,
)  # fmt: skip

POOLINGS = {
    "xlm-roberta": "cls",
    "gpt2": "weightedmean",
    "llama": "lasttoken",
    "mistral": "lasttoken",
    "qwen3": "lasttoken",
}

FAMILIES = [*BACKBONES, "static"]


def save_plain(name: str, folder: Path) -> Path:
    """Write a transformers folder of a family, with its weights in float32."""
    backbone, tokenizer = BACKBONES[name]()
    backbone.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_family(name: str, folder: Path, **options: Any) -> Path:
    """Write a sentence-transformers folder of a family, by sentence-transformers itself.

    Args:
        name: one of `FAMILIES`.
        folder: made if absent.
        options: ``prompts`` and others of SentenceTransformer.
    """
    torch.manual_seed(0)
    if name == "static":
        words = wordpiece().backend_tokenizer
        pipeline: list[nn.Module] = [StaticEmbedding(words, embedding_dim=16)]
    else:
        plain = save_plain(name, folder.parent / f"{folder.name}-plain")
        first = Transformer(str(plain))
        dim = first.get_embedding_dimension()
        pipeline = [first, Pooling(dim, POOLINGS.get(name, "mean"))]
        if name in ("t5", "gemma3"):
            pipeline += [Dense(dim, 24, bias=False, activation_function=nn.Identity())]
        if name == "gemma3":
            pipeline += [Dense(24, 16, bias=True, activation_function=nn.Tanh())]
    SentenceTransformer(modules=[*pipeline, Normalize()], device="cpu", **options).save_pretrained(str(folder))
    return folder
