"""Tokenization of texts that are cut at one length: the token ids of each, and a batch of them, padded."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import tokenizers
import torch
import transformers

from modules.encoding.features import Features, TokenIds, pad
from modules.encoding.text_tokenizer import TextTokenizer


class Tokenization:
    """Makes features of texts; the ids of a text do not depend on the others of its batch, and may be kept.

    Args:
        tokenizer: of the model.
        max_length: tokens kept of a text, special ones included.
        pools_without_prompts: whether the model's pooling leaves a prompt's tokens out.
    """

    def __init__(self, tokenizer: TextTokenizer, max_length: int, pools_without_prompts: bool) -> None:
        self.max_length, self.pools_without_prompts = max_length, pools_without_prompts
        self._tokenizer = tokenizer

    def __call__(self, texts: Sequence[str], *, prompts: Sequence[str]) -> Features:
        """Tokenise texts, each behind its prompt, and pad to the longest."""
        return self.features(self.token_ids([p + text for p, text in zip(prompts, texts, strict=True)]), prompts)

    def token_ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each text; its prompt is part of it."""
        return self._tokenizer(texts, self.max_length)

    def features(self, ids: Sequence[TokenIds], prompts: Sequence[str]) -> Features:
        """Pad token ids to the longest.

        Args:
            ids: of each text, with its prompt.
            prompts: of each text.
        """
        features = pad(ids, self._tokenizer.pad_id)
        if self.pools_without_prompts:
            lengths = [self._tokenizer.prompt_length(prompt, self.max_length) for prompt in prompts]
            features["prompt_lengths"] = torch.tensor(lengths)
        return features

    @property
    def largest_id(self) -> int:
        """The largest id that a token can have, where there is a `key`."""
        return self._tokenizer.largest_id

    @cached_property
    def key(self) -> str | None:
        """Equal for tokenizations that give every text the same ids, in this and later processes; None: not known."""
        identity = self._tokenizer.identity
        if identity is None:
            return None
        parts = [identity, self.max_length, tokenizers.__version__, transformers.__version__]
        return hashlib.sha256(repr(parts).encode()).hexdigest()
