"""The token ids of texts, as a pipeline makes them, without padding."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding, Transformer
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerBase

from modules.checkpoints.text_settings import NO_LIMIT, positions_after_padding
from modules.encoding.features import TokenIds
from modules.errors import UserError
from modules.say_once import say_once

OURS = {
    "padding",
    "pad_to_multiple_of",
    "return_tensors",
    "return_attention_mask",
    "return_token_type_ids",
    "max_length",
}
"""Keys of a module's ``processing_kwargs`` that are decided here."""

PREPARED_AT_ONCE = 256
"""Texts per call of a module that prepares texts by itself; it pads them to the longest."""


class TextTokenizer:
    """Makes token ids of texts.

    Where the pipeline begins with a transformers tokenizer it is called directly, without padding; a chat template and
    modules with a way of their own prepare texts themselves.

    Args:
        pipeline: of sentence-transformers.

    Raises:
        UserError: its first module reads no texts, or gives a text more than token ids.

    Example:
        >>> TextTokenizer(SentenceTransformer("all-MiniLM-L6-v2"))(["A text."], 256)[0]
        array([ 101, 1037, 3793, 1012,  102], dtype=int32)
    """

    def __init__(self, pipeline: SentenceTransformer) -> None:
        first: Any = pipeline[0]
        _refuse_first_module(first)
        self._first = first
        self.direct = (
            isinstance(first, Transformer)
            and isinstance(first.processor, PreTrainedTokenizerBase)
            and "message" not in first.modality_config
        )
        self._options: dict[str, Any] = _processing(first) if self.direct else {}
        after_padding = positions_after_padding(first.config.to_dict()) if isinstance(first, Transformer) else None
        self.positions = NO_LIMIT if after_padding is None else after_padding
        """Number of tokens that the model has positions for; `NO_LIMIT` where sentence-transformers knows it."""
        limits = [self._options.pop("max_length", None), getattr(first, "max_seq_length", None), self.positions]
        self.max_length = int(min(limit for limit in limits if limit is not None and limit <= NO_LIMIT))
        """Number of tokens kept of a text, special tokens included; `NO_LIMIT` where nothing limits it."""
        self._prompt_lengths: dict[tuple[str, int], int] = {}
        self.pad_id = _pad_id(first)
        """The padding token, which a Transformer also gets for a text without tokens."""

    def __call__(self, texts: Sequence[str], max_length: int) -> list[TokenIds]:
        """Tokenise texts.

        Args:
            texts: with their prompts.
            max_length: tokens kept of each.

        Returns:
            The ids of each text. A Transformer needs a token: a text without tokens gets the padding token.
        """
        found: list[TokenIds] = [np.array(ids, dtype=np.int32) for ids in self._ids(list(texts), max_length)]
        if isinstance(self._first, StaticEmbedding) or all(map(len, found)):
            return found
        say_once("of a text without tokens the padding token is embedded")
        return [ids if len(ids) else np.array([self.pad_id], dtype=np.int32) for ids in found]

    def _ids(self, texts: list[str], max_length: int) -> Any:
        if self.direct:
            cut: dict[str, Any] = {"max_length": max_length} if max_length < NO_LIMIT else {"truncation": False}
            options = {"truncation": "longest_first", **self._options, **cut}
            return self._first.processor(texts, return_attention_mask=False, return_token_type_ids=False, **options)[
                "input_ids"
            ]
        if isinstance(self._first, StaticEmbedding):
            return [one.ids[:max_length] for one in self._first.tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [
            ids
            for i in range(0, len(texts), PREPARED_AT_ONCE)
            for ids in self._prepared(texts[i : i + PREPARED_AT_ONCE])
        ]

    def _prepared(self, texts: list[str]) -> list[Any]:
        features = self._first.preprocess(texts)
        mask = features["attention_mask"].bool()
        return [ids[kept].tolist() for ids, kept in zip(features["input_ids"], mask, strict=True)]

    def prompt_length(self, prompt: str, max_length: int) -> int:
        """Return the number of tokens of a prompt, as sentence-transformers counts them for its pooling.

        Args:
            prompt: prefix of texts.
            max_length: tokens kept of a text.

        Returns:
            The number of tokens of the prompt alone, a special token at its end left out.
        """
        key = prompt, max_length
        if key not in self._prompt_lengths:
            ids: Any = self([prompt], max_length)[0] if prompt else []
            tokenizer = getattr(self._first, "tokenizer", None)
            special = tokenizer.all_special_ids if isinstance(tokenizer, PreTrainedTokenizerBase) else []
            self._prompt_lengths[key] = len(ids) - int(len(ids) > 0 and int(ids[-1]) in special)
        return self._prompt_lengths[key]

    @cached_property
    def largest_id(self) -> int:
        """The largest id of the vocabulary of a tokenizer that has an `identity`."""
        backend = _backend(self._first)
        return 0 if backend is None else max(backend.get_vocab().values(), default=0)

    @cached_property
    def identity(self) -> str | None:
        """A hash that is equal for tokenizers that give every text the same ids; None where it cannot be taken."""
        backend = _backend(self._first)
        if backend is None or not (self.direct or isinstance(self._first, StaticEmbedding)):
            return None
        backend.no_truncation()  # left over from the last call; transformers sets both again at the next
        backend.no_padding()
        tokenizer = getattr(self._first, "tokenizer", None)
        side = getattr(tokenizer, "truncation_side", "right")
        # What the backend does not write out.
        beside = [self.pad_id, getattr(tokenizer, "split_special_tokens", False), sorted(self._options.items())]
        parts = [type(self._first).__name__, side, repr(beside), backend.to_str()]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _refuse_first_module(first: nn.Module) -> None:
    if isinstance(first, StaticEmbedding):
        return
    kind = type(first).__name__
    if not isinstance(first, Transformer):
        raise UserError(f"a model whose first module is {kind} has no tokens to train on; use one with a Transformer")
    if "text" not in first.modality_config and "message" not in first.modality_config:
        raise UserError("the model reads no texts; use one that does")
    if any((first.query_length, first.document_length, first.query_expansion)):
        raise UserError("query_length, document_length and query_expansion are for multi-vector models; remove them")
    if first.tokenizer is not None and any(first.tokenizer(["a"]).get("token_type_ids", [[0]])[0]):
        raise UserError(f"{kind}: its tokenizer gives a single text token types other than 0, which are not supported")


def _processing(first: Transformer) -> dict[str, Any]:
    """Return the tokenizer's options from the module's ``processing_kwargs``."""
    given = first.processing_kwargs
    options: dict[str, Any] = {**given.get("text", {}), **given.get("common", {})}
    return {key: value for key, value in options.items() if key == "max_length" or key not in OURS}


def _pad_id(first: nn.Module) -> int:
    tokenizer = getattr(first, "tokenizer", None)
    ids = (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None))
    return next((one for one in ids if one is not None), 0)


def _backend(first: nn.Module) -> Tokenizer | None:
    tokenizer = getattr(first, "tokenizer", None)
    return tokenizer if isinstance(tokenizer, Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
