"""Rows of one data set, held by column."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from operator import eq

import numpy as np
from numpy.typing import NDArray

from datamodules.text_column import TextColumn
from modules.encoding.prompts import Side, SidePrompts
from modules.errors import UserError
from modules.losses import losses_for
from modules.losses.task_batch import Kind, LossConfig

SIDES: dict[Kind, tuple[Side, Side]] = {
    "pairs": ("query", "document"),
    "graded": ("text", "text"),
    "labelled": ("text", "text"),
}
"""What the texts of the first column are to a model, and those of the others."""


@dataclass(frozen=True)
class TaskData:
    """Rows of one data set, held by column; columns given as lists, as tests do, are converted.

    Args:
        name: what the data set is called in recipes, logs and reports.
        kind: ``pairs`` (anchor, positive, negatives), ``graded`` (sentence1, sentence2, score) or ``labelled``
            (text, label).
        texts: the text columns as they were read, all of one length. A column of negatives has an empty text where a
            row has fewer negatives than others; no other text is empty.
        prompts: one prefix a text column; None: that of the model, see `with_prompts`.
        target: ``[rows]``: the score in [0, 1], float64, or the label, int64, of every row; None for pairs.
        groups: rows of one group never lie in two splits; None: the texts say which rows belong together.
        loss: the loss it is trained with, never ``auto``.
        places: where each row stands in its source, counted from 1; None: not known.
        left_out: reason to the number of rows that were read and are not here for it.
        notes: what was taken how while reading, one line each.
        instructions: side to the prefix of every row, which wins over that of the column.
    """

    name: str
    kind: Kind
    texts: list[TextColumn]
    prompts: Sequence[str | None]
    target: NDArray[np.float64] | NDArray[np.int64] | None
    groups: TextColumn | None
    loss: LossConfig
    places: NDArray[np.int64] | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    instructions: dict[Side, TextColumn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Put columns that are lists on Arrow and numpy."""
        numbers = np.float64 if self.kind == "graded" else np.int64
        converted = {
            "texts": [TextColumn.of(column) for column in self.texts],
            "target": None if self.target is None else np.asarray(self.target, numbers),
            "groups": None if self.groups is None else TextColumn.of(self.groups),
            "places": None if self.places is None else np.asarray(self.places, np.int64),
            "instructions": {side: TextColumn.of(own) for side, own in self.instructions.items()},
        }
        for name, value in converted.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        """Return whether all fields are equal."""
        if not isinstance(other, TaskData):
            return NotImplemented
        return all(
            (np.array_equal if name in ("target", "places") else eq)(getattr(self, name), getattr(other, name))
            for name in self.__dataclass_fields__
        )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.texts[0])

    @property
    def sides(self) -> list[Side]:
        """The side of the texts of each column: query, document or text."""
        first, others = SIDES[self.kind]
        return [first, *[others] * (len(self.texts) - 1)]

    @property
    def has_prompts(self) -> bool:
        """True where the data set, or a row of it, has a prompt of its own."""
        return bool(self.instructions) or any(prompt is not None for prompt in self.prompts)

    def with_prompts(self, model: SidePrompts) -> "TaskData":
        """Return the same rows with the prompts of a model where the data set has none of its own."""
        given = zip(self.prompts, self.sides, strict=True)
        return replace(self, prompts=[model[side] if prompt is None else prompt for prompt, side in given])

    def row_prompts(self, column: int, rows: Iterable[int]) -> list[str]:
        """Return the prefix of some rows of one column; the model's prompts must be known."""
        prompt, own = self.prompts[column], self.instructions.get(self.sides[column])
        assert prompt is not None, f"{self.name}: call with_prompts first"
        return [prompt if own is None else own[row] for row in rows]

    def side_prompts(self) -> dict[Side, str | None]:
        """Return the prefix of each side that the data set has texts of; None: rows differ in it.

        A side has the prefix of its first column. Graded sentences whose prompts differ are queries and documents.
        """
        prefixes = [self._prefix(column) for column in range(len(self.texts))][:2]
        two = self.kind == "graded" and prefixes[0] != prefixes[1]
        sides: list[Side] = ["query", "document"] if two else self.sides
        return dict(zip(sides, prefixes, strict=False))

    def _prefix(self, column: int) -> str | None:
        """The one prefix of all texts of a column; None: they have several."""
        own = self.instructions.get(self.sides[column])
        if not own:
            return self.prompts[column]
        first = own[0]
        return first if all(prompt == first for prompt in own) else None

    def subset(self, rows: Sequence[int] | NDArray[np.int64]) -> "TaskData":
        """Return the data set with these rows only, in this order; no text is copied."""
        chosen = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            texts=[column.take(chosen) for column in self.texts],
            target=None if self.target is None else self.target[chosen],
            groups=None if self.groups is None else self.groups.take(chosen),
            places=None if self.places is None else self.places[chosen],
            instructions={side: own.take(chosen) for side, own in self.instructions.items()},
        )

    def with_loss(self, loss: LossConfig) -> "TaskData":
        """Return the same rows, to be trained with another loss.

        Raises:
            UserError: the loss needs other columns, or the temperature is not positive.
        """
        return replace(self, loss=resolve_loss(self.name, self.kind, loss))

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that training reads: equal exactly for data sets that train the same model."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        # Kept, because a position asks at every validation, and a study for every stage.
        texts = [column.digest() for column in self.texts]
        instructions = {side: own.digest() for side, own in self.instructions.items()}
        target = None if self.target is None else hashlib.sha256(self.target.tobytes()).hexdigest()
        content = [self.kind, texts, self.prompts, instructions, target, asdict(self.loss)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resolve_loss(name: str, kind: Kind, loss: LossConfig) -> LossConfig:
    """The loss with ``auto`` replaced by the one that fits the columns.

    Raises:
        UserError: the loss needs other columns, or the temperature is not positive.
    """
    fitting = losses_for(kind)
    if loss.name not in ("auto", *fitting):
        known = ", ".join(fitting)
        raise UserError(f"{name}: loss {loss.name!r} does not fit {kind} rows; set it to {known} or auto")
    if not loss.temperature > 0:
        raise UserError(f"{name}: loss.temperature is {loss.temperature}; it must be above 0")
    return LossConfig(fitting[0] if loss.name == "auto" else loss.name, loss.temperature)
