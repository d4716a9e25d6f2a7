"""Token ids of texts, made once for all models that tokenise alike."""

from collections.abc import Sequence

from modules.encoding.features import TokenIds
from modules.encoding.text_tokenizer import TextTokenizer


class TokenizedTexts:
    """Keeps token ids by text for models with the same tokenizer and maximum length.

    Nothing is ever dropped: let go of the whole when the texts are done with.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], dict[str, TokenIds]] = {}

    def of(self, tokenizer: TextTokenizer, max_length: int) -> dict[str, TokenIds]:
        """Return what is known already of one way to tokenise; ``encode`` reads it and adds to it."""
        identity = tokenizer.identity
        # What nobody will ask for again is not held on to.
        return {} if identity is None else self._known.setdefault((identity, max_length), {})


def look_up(
    tokenizer: TextTokenizer, max_length: int, known: dict[str, TokenIds] | None, texts: Sequence[str]
) -> list[TokenIds]:
    """Return the token ids of distinct texts; those that are not known yet are made, and added."""
    known = {} if known is None else known
    missing = [text for text in texts if text not in known]
    if missing:
        known.update(zip(missing, tokenizer(missing, max_length), strict=True))
    return [known[text] for text in texts]
