"""Rows of one data set, held by column."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from modules.errors import UserError
from modules.losses import losses_for
from modules.losses.task_batch import Kind, LossConfig


@dataclass(frozen=True)
class TaskData:
    """Rows of one data set, held by column.

    Args:
        name: what the data set is called in recipes, logs and reports.
        kind: ``pairs`` (anchor, positive, negatives), ``graded`` (sentence1, sentence2, score) or ``labelled``
            (text, label).
        texts: the text columns as they were read, all of one length.
        prompts: one prefix a text column.
        target: the score in [0, 1] or the label of every row; None for pairs.
        groups: rows of one group never lie in two splits; None: the texts say which rows belong together.
        loss: the loss it is trained with, never ``auto``.
        places: where each row stands in its source, counted from 1; None: not known.
        left_out: reason to the number of rows that were read and are not here for it.
        notes: what was taken how while reading, one line each.
    """

    name: str
    kind: Kind
    texts: list[list[str]]
    prompts: list[str]
    target: list[float] | list[int] | None
    groups: list[str] | None
    loss: LossConfig
    places: list[int] | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.texts[0])

    def prompted(self, column: int, rows: Sequence[int]) -> list[str]:
        """The texts that a model reads: prefix and text of some rows of one column."""
        return [self.prompts[column] + self.texts[column][row] for row in rows]

    def subset(self, rows: Sequence[int]) -> "TaskData":
        """The data set with these rows only, in this order."""
        return replace(
            self,
            texts=[[column[row] for row in rows] for column in self.texts],
            target=None if self.target is None else [self.target[row] for row in rows],
            groups=None if self.groups is None else [self.groups[row] for row in rows],
            places=None if self.places is None else [self.places[row] for row in rows],
        )

    def with_loss(self, loss: LossConfig) -> "TaskData":
        """The same rows, to be trained with another loss.

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
        content = [self.kind, self.texts, self.prompts, self.target, asdict(self.loss)]
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
