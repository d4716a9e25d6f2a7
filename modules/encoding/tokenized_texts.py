"""Token ids of texts, made once for all models that tokenise alike, in a bounded amount."""

import sys
from collections.abc import Mapping, Sequence

from modules.encoding.features import TokenIds
from modules.encoding.text_tokenizer import TextTokenizer

MOST_BYTES = 2**26
"""Kept for each tokenizer: 64 MB, some 150,000 sentences."""

BYTES_PER_ENTRY = 100
"""Of a dictionary, beside the text and its ids."""


class KnownTokens(dict[str, TokenIds]):
    """Token ids by text, of models with one tokenizer and maximum length.

    Once `MOST_BYTES` are full, further texts are not added. None is dropped for another: models are scored on the same
    texts in the same order, so the text that was not asked for the longest is the next that will be.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = MOST_BYTES

    def add(self, made: Mapping[str, TokenIds]) -> None:
        """Add the ids of texts as long as there is room."""
        for text, ids in made.items():
            self._left -= sys.getsizeof(text) + sys.getsizeof(ids) + BYTES_PER_ENTRY
            if self._left < 0:
                return
            self[text] = ids


class TokenizedTexts:
    """Keeps the token ids of texts apart by tokenizer and maximum length.

    Example:
        >>> tokenized = TokenizedTexts()
        >>> for encoder in encoders:
        ...     encoder.encode(texts, tokenized=tokenized.of(encoder.tokenizer, encoder.max_length))
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], KnownTokens] = {}

    def of(self, tokenizer: TextTokenizer, max_length: int) -> KnownTokens:
        """Return the ids that are known of one way to tokenise; ``encode`` reads them and adds to them."""
        identity = tokenizer.identity
        # Ids that nobody will ask for again are not held on to.
        return KnownTokens() if identity is None else self._known.setdefault((identity, max_length), KnownTokens())


def look_up(
    tokenizer: TextTokenizer, max_length: int, known: KnownTokens | None, texts: Sequence[str]
) -> list[TokenIds]:
    """Return the token ids of distinct texts; those that are not known yet are made, and added."""
    known = KnownTokens() if known is None else known
    missing = [text for text in texts if text not in known]
    made = dict(zip(missing, tokenizer(missing, max_length), strict=True)) if missing else {}
    known.add(made)
    return [made[text] if text in made else known[text] for text in texts]
