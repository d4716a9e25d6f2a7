"""Descriptions of data sets: kind, rows, lengths in tokens, duplicates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from datamodules import TaskData
from datamodules.sources.columns import SCHEMAS
from datamodules.text_ids import column_ids
from lightning_app.first_recipe.given import GivenData
from modules.checkpoints.text_settings import NO_LIMIT
from modules.encoding.prompts import SidePrompts
from modules.encoding.text_tokenizer import TextTokenizer

SAMPLE = 1000
"""Rows of which tokens are counted, at most, drawn at random."""

HEADER = ("data set", "kind", "rows", "duplicates", "tokens: median, 95 %, longest")


@dataclass(frozen=True)
class DataSummary:
    """A data set in a few numbers.

    Args:
        given: the data set.
        lengths: text column, all negatives as one, to the number of tokens of each text of a sample.
    """

    given: GivenData
    lengths: dict[str, NDArray[np.int64]]

    @classmethod
    def of(cls, given: GivenData, prompts: SidePrompts, tokenizer: TextTokenizer) -> "DataSummary":
        """Count the tokens of a data set.

        Args:
            given: the data set.
            prompts: of the base.
            tokenizer: of the base.
        """
        rows = given.rows.with_prompts(prompts)
        drawn = np.random.default_rng(0).permutation(len(rows))[:SAMPLE]
        lengths: dict[str, list[int]] = {}
        for name, texts in _texts(rows.subset(drawn)):
            lengths.setdefault(name, []).extend(map(len, tokenizer(texts, NO_LIMIT)))
        return cls(given, {name: np.array(of) for name, of in lengths.items()})

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.given.rows.name

    @property
    def kind(self) -> str:
        """The kind of rows, in words."""
        rows = self.given.rows
        if rows.kind == "labelled" and rows.target is not None:
            return f"labelled texts, {len(set(rows.target.tolist())):,} labels"
        if rows.kind == "graded":
            low, high = self.given.source.score_range or (0, 1)
            return f"graded pairs, scores {low:g} to {high:g}"
        most = len(rows.texts) - 2
        return "pairs" if not most else f"pairs with {f'up to {most} negatives' if most > 1 else 'a negative'}"

    @cached_property
    def duplicates(self) -> int:
        """The number of rows whose texts are those of an earlier row."""
        columns = [column_ids(column, str) for column in self.given.rows.texts]
        return len(self.given.rows) - len(np.unique(np.stack(columns), axis=1).T)

    def quantile(self, part: float) -> int:
        """Return the number of tokens that a part of the texts does not exceed, in the column of the longest texts."""
        return max(int(np.quantile(lengths, part)) for lengths in self.lengths.values())

    def longer(self, tokens: int) -> float:
        """Return the part of all texts that is longer than so many tokens."""
        return float(np.mean(np.concatenate(list(self.lengths.values())) > tokens))

    def cells(self) -> list[str]:
        """Return the row of the data set under `HEADER`."""
        tokens = [f"{name} {_quantiles(lengths)}" for name, lengths in self.lengths.items()]
        return [self.name, self.kind, f"{len(self.given.rows):,}", f"{self.duplicates:,}", "; ".join(tokens)]


def _texts(rows: TaskData) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the name of each text column, with its texts behind their prompts; a negative that a row lacks is none."""
    names = SCHEMAS[rows.kind][0]
    for number, column in enumerate(rows.texts):
        prompts = rows.row_prompts(number, range(len(rows)))
        texts = [prompt + text for prompt, text in zip(prompts, column, strict=True) if text]
        yield (names[number] if number < len(names) else "negative"), texts


def _quantiles(lengths: NDArray[np.int64]) -> str:
    return " / ".join(f"{int(np.quantile(lengths, part)):,}" for part in (0.5, 0.95, 1.0))
