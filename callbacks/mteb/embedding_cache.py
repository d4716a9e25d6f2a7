"""Embeddings of the task at hand, kept in a bounded amount for texts that come again."""

from collections.abc import Sequence

from torch import Tensor

MOST_NUMBERS = 2**24
"""Kept at most: 64 MB of float32, 43,690 texts of 384 dimensions."""


class EmbeddingCache:
    """Keeps the embeddings of texts that a task may ask for twice, as ``sentence1`` and as ``sentence2``.

    It is emptied when another task comes, and when the next embeddings have no room. Those that would
    fill it alone, as a chunk of a large corpus does, are not kept.
    """

    def __init__(self) -> None:
        self._task = ""
        self._vectors: dict[tuple[str, str], Tensor] = {}
        self._numbers = 0

    def of(self, task: str, prompt: str, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the embeddings that are kept of some texts.

        Args:
            task: name of the task that asks.
            prompt: put before each text.
            texts: without the prompt.
        """
        if task != self._task:
            self._empty()
            self._task = task
        return {text: self._vectors[prompt, text] for text in texts if (prompt, text) in self._vectors}

    def add(self, prompt: str, texts: Sequence[str], vectors: Tensor) -> None:
        """Keep a copy of embeddings, if there is room.

        Args:
            prompt: put before each text.
            texts: distinct, not kept yet.
            vectors: ``[len(texts), dim]``.
        """
        if vectors.numel() > MOST_NUMBERS:
            return
        if self._numbers + vectors.numel() > MOST_NUMBERS:
            self._empty()
        self._numbers += vectors.numel()
        self._vectors.update(zip(((prompt, text) for text in texts), vectors.clone(), strict=True))

    def _empty(self) -> None:
        self._vectors, self._numbers = {}, 0
