"""Embedding many texts fast: each once, tokenised ahead of the model, in batches that hold little or no padding."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypedDict

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from modules.encoding.features import TokenIds, pad
from modules.encoding.precisions import PRECISIONS
from modules.encoding.text_tokenizer import TextTokenizer
from modules.encoding.tokenized_texts import KnownTokens, look_up
from modules.errors import UserError
from modules.evaluation_mode import evaluation_mode

TOKENS_PER_TEXT = 32
"""A batch has room for ``batch_size`` texts of this many tokens: more texts that are shorter, fewer that are longer."""

CHUNK = 2**18
"""Characters tokenised at a time; the model starts on a chunk while the next is tokenised. A tokenizer takes a hundred
bytes for every token of a text, tokens that are cut off included."""


MOST_WAITING = 2**26
"""Entries of embeddings that are left on an accelerator before they are moved to the CPU: 256 MB."""

MOST_TOKENS = 2**16
"""Tokens per batch beyond which an accelerator gets no faster."""

BYTES_PER_ENTRY = 64
"""Memory of a forward pass per token and entry of the widest layer's input: about sixteen float32 tensors."""


class EncodeOptions(TypedDict, total=False):
    """The options of `encode_texts`, which describes them."""

    batch_size: int
    precision: str
    tokenized: KnownTokens | None
    bar: str


Tokenize = Callable[[Sequence[str]], list[TokenIds]]


@torch.no_grad()
def encode_texts(
    encoder: nn.Module,
    tokenizer: TextTokenizer,
    max_length: int,
    texts: Sequence[str],
    device: torch.device,
    *,
    prompt: str = "",
    pools_without_prompts: bool = False,
    batch_size: int = 64,
    precision: str = "float32",
    tokenized: KnownTokens | None = None,
    bar: str = "",
) -> Tensor:
    """Embed texts in evaluation mode, without gradients; the encoder's mode is put back afterwards.

    Args:
        encoder: maps features to ``[batch, dim]``.
        tokenizer: its tokenizer.
        max_length: tokens kept of a text.
        texts: without the prompt.
        device: of the encoder.
        prompt: prefix of each text.
        pools_without_prompts: whether the encoder's pooling leaves a prompt's tokens out.
        batch_size: number of texts of `TOKENS_PER_TEXT` tokens that a forward pass has room for; on an accelerator
            more, by its free memory.
        precision: one of `PRECISIONS`.
        tokenized: token ids by text, see `TokenizedTexts`; missing ones are added.
        bar: label of a bar of the texts, where there is a terminal to draw it on; empty: none.

    Returns:
        ``[len(texts), dim]``, float32, on the CPU.

    Raises:
        UserError: there are no texts, or the precision is unknown.
    """
    if not texts:
        raise UserError("there are no texts to embed")
    if precision not in PRECISIONS:
        raise UserError(f"precision '{precision}' is unknown: use one of {', '.join(PRECISIONS)}")
    prompt_length = tokenizer.prompt_length(prompt, max_length) if pools_without_prompts else None
    row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}

    def tokenize(chunk: Sequence[str]) -> list[TokenIds]:
        return look_up(tokenizer, max_length, tokenized, [prompt + text for text in chunk])

    longest_first = sorted(row_of, key=len, reverse=True)
    chunks = list(_chunks(longest_first, len(prompt)))
    embeddings = _OnTheCpu(len(row_of))
    with (
        evaluation_mode(encoder),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        tqdm(total=len(row_of), desc=bar, unit="text", disable=None if bar else True, leave=False) as embedded,
    ):
        for batch, ids in _batches(chunks, tokenize, _room(encoder, device, batch_size * TOKENS_PER_TEXT)):
            features = {key: value.to(device) for key, value in pad(ids, tokenizer.pad_id).items()}
            if prompt_length is not None:
                features["prompt_lengths"] = torch.full((len(batch),), prompt_length, device=device)
            embeddings.add([row_of[text] for text in batch], encoder(features).float())
            embedded.update(len(batch))
    found = embeddings.all()
    return found if len(row_of) == len(texts) else found[[row_of[text] for text in texts]]


class _OnTheCpu:
    """Collects embeddings in one tensor; an accelerator is waited for when many have come together, not at every batch.

    Args:
        count: rows that will be added.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._moved: Tensor | None = None
        self._rows: list[int] = []
        self._waiting: list[Tensor] = []
        self._numbers = 0

    def add(self, rows: list[int], part: Tensor) -> None:
        """Add the embeddings of some rows."""
        self._rows += rows
        self._waiting.append(part)
        self._numbers += part.numel()
        if part.device.type == "cpu" or self._numbers > MOST_WAITING:
            self._move()

    def all(self) -> Tensor:
        """Return the embeddings of all rows: ``[count, dim]``."""
        if self._waiting:
            self._move()
        assert self._moved is not None
        return self._moved

    def _move(self) -> None:
        moved = torch.cat(self._waiting).cpu()
        if self._moved is None:
            self._moved = moved.new_empty(self._count, moved.shape[-1])
        self._moved[self._rows] = moved
        self._rows, self._waiting, self._numbers = [], [], 0


def _room(encoder: nn.Module, device: torch.device, tokens: int) -> int:
    """Return the number of tokens that a batch has room for: `tokens` on a CPU, for its caches; more elsewhere."""
    if device.type != "cuda":
        return tokens
    free, _ = torch.cuda.mem_get_info(device)
    widest = max((weight.shape[-1] for weight in encoder.parameters() if weight.ndim == 2), default=1)
    return max(tokens, min(MOST_TOKENS, int(free / 2 / (BYTES_PER_ENTRY * widest))))


def _batches(
    chunks: Sequence[Sequence[str]], tokenize: Tokenize, budget: int
) -> Iterator[tuple[list[str], list[TokenIds]]]:
    """Yield the texts that go through the model together, with their tokens; the texts are given from long to short."""
    for chunk, ids in _tokenized_ahead(chunks, tokenize):
        for rows in plan_batches([len(tokens) for tokens in ids], budget):
            yield [chunk[row] for row in rows], [ids[row] for row in rows]


def _tokenized_ahead(
    chunks: Sequence[Sequence[str]], tokenize: Tokenize
) -> Iterator[tuple[Sequence[str], list[TokenIds]]]:
    """Yield chunks of texts with their tokens; while one is embedded, another thread tokenises the next."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = thread.submit(tokenize, chunks[0])
        for chunk, following in pairwise([*chunks, []]):
            ids = ahead.result()
            ahead = thread.submit(tokenize, following)
            yield chunk, ids


def _chunks(texts: Sequence[str], prompt_size: int) -> Iterator[Sequence[str]]:
    """Yield the texts in their order, in pieces of `CHUNK` characters, prompts included, or of one longer text."""
    start, characters = 0, 0
    for end, text in enumerate(texts):
        size = prompt_size + len(text)
        characters += size
        if characters > CHUNK and end > start:
            yield texts[start:end]
            start, characters = end, size
    yield texts[start:]


def plan_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Sort texts into batches, the longest first.

    A batch that is a quarter full ends where the length changes, so batches of short texts hold no padding (where
    transformers leaves the attention mask out), and the others hardly any.

    Args:
        lengths: tokens of each text.
        budget: tokens in a batch, padding included; a longer text is a batch of its own.

    Yields:
        The places of the texts of a batch.
    """
    batch: list[int] = []
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        longest = lengths[batch[0]] if batch else 0
        full = (len(batch) + 1) * longest > budget
        shorter = lengths[text] < longest and 4 * len(batch) * longest >= budget
        if batch and (full or shorter):
            yield batch
            batch = []
        batch.append(text)
    yield batch
