"""How much of an evaluation a model has seen: texts that are also training rows."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from datamodules.collate import text_id

NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Overlap:
    """What an evaluation shares with training rows.

    Args:
        texts: different texts of the evaluation.
        exact: those of them that are training texts, letter by letter.
        normalised: those that are training texts after `normalised`; the exact ones are among them.
    """

    texts: int
    exact: int
    normalised: int


class TrainingTexts:
    """Fingerprints of all training texts, eight bytes each.

    Args:
        texts: of every column, without prompts; an empty one stands for a negative that a row lacks.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        distinct = set(texts) - {""}
        self._exact = {text_id(text) for text in distinct}
        self._normalised = {text_id(normalised(text)) for text in distinct} - {text_id("")}

    def overlap(self, texts: Iterable[Collection[str]]) -> Overlap:
        """Return what an evaluation shares with these texts.

        Args:
            texts: the ways in which each text may be written: a document with and without its title, say.
        """
        distinct = {tuple(ways) for ways in texts}
        exact = sum(any(text_id(way) in self._exact for way in ways) for ways in distinct)
        alike = sum(any(text_id(normalised(way)) in self._normalised for way in ways) for ways in distinct)
        return Overlap(len(distinct), exact, max(exact, alike))


def normalised(text: str) -> str:
    """A text without case and punctuation: words, case-folded, with single spaces between them.

    Everything that is neither a letter nor a digit separates words. A text without any is empty, and equals none.
    """
    return NO_WORD.sub(" ", text).strip().casefold()
