"""Texts as token ids, made once for all models that tokenise alike.

Shapes: batch, length (tokens).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from modules.losses.task_batch import Features

TokenIds = npt.NDArray[np.int32]
"""The tokens of one text, special ones included, without padding: ``[length]``."""


class TokenizedTexts:
    """Token ids by text, shared by models with the same tokenizer and maximum length.

    Nothing is ever dropped: let go of the whole when the texts are done with.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], dict[str, TokenIds]] = {}

    def of(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, TokenIds]:
        """What is known already of one way to tokenise; ``encode`` reads it and adds to it."""
        identity = _identity(tokenizer)
        # What nobody will ask for again is not held on to.
        return {} if identity is None else self._known.setdefault((identity, max_length), {})


def look_up(
    tokenizer: PreTrainedTokenizerBase, max_length: int, known: dict[str, TokenIds] | None, texts: Sequence[str]
) -> list[TokenIds]:
    """Token ids of distinct texts; those that are not known yet are made, and added."""
    known = {} if known is None else known
    missing = [text for text in texts if text not in known]
    if missing:
        known.update(zip(missing, token_ids(tokenizer, missing, max_length), strict=True))
    return [known[text] for text in texts]


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[TokenIds]:
    """Tokenise without padding, cut to a maximum length; where nothing is left of a text, padding stands for it."""
    encoded = tokenizer(
        list(texts), truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=False
    )
    return [np.array(ids or [tokenizer.pad_token_id], dtype=np.int32) for ids in encoded["input_ids"]]


def pad(ids: Sequence[TokenIds], pad_id: int) -> Features:
    """Pad to the longest of these texts: ``[batch, length]`` int64.

    Always on the right, whatever the tokenizer says: there, neither absolute positions nor causal attention let
    padding change an embedding, and pooling goes by the mask.
    """
    length = max(map(len, ids))
    input_ids = np.full((len(ids), length), pad_id, dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}


def _identity(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Equal for tokenizers that give every text the same ids; None for those that cannot tell."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend.no_truncation()  # left over from the last call; transformers sets both again at the next
    backend.no_padding()
    return hashlib.sha256(f"{tokenizer.truncation_side} {backend.to_str()}".encode()).hexdigest()
