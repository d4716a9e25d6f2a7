"""The section ``position`` of a recipe; every field is a key of the YAML."""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from modules.errors import UserError

TRAINER_LENGTHS = (
    "max_epochs",
    "min_epochs",
    "max_steps",
    "min_steps",
    "max_time",
    "val_check_interval",
    "check_val_every_n_epoch",
)
"""Arguments of Lightning's Trainer that say how long it trains and when it validates: here, for a position."""

LEAST = {
    "max_epochs": -1,
    "min_epochs": 0,
    "max_steps": -1,
    "min_steps": 0,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "accumulate_grad_batches": 1,
}
"""Key to its smallest value."""

PARTS = ("val_check_interval", "limit_train_batches")
"""Keys that are a number of batches, or a part of them."""

DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")


@dataclass(frozen=True)
class PositionSettings:
    """Lengths and clipping of the training of every learned position: arguments of Lightning's Trainer.

    Experts and joint models have their lengths in ``recipes``.

    Args:
        max_epochs: passes over the probe rows at most; -1: no limit. A search that has settled ends before it.
        min_epochs: passes over the probe rows at least; null: none.
        max_steps: optimiser steps at most; -1: no limit.
        min_steps: optimiser steps at least; null: none.
        max_time: the longest time, as ``00:00:30:00`` (days, hours, minutes, seconds); null: no limit.
        check_val_every_n_epoch: passes over the probe rows between validations; null: none, where
            ``val_check_interval`` counts batches over all passes.
        val_check_interval: batches, or as a float the part of a pass, between validations; null: a whole pass.
        gradient_clip_val: bound of the gradients; null: as ``trainer`` says.
        gradient_clip_algorithm: ``norm`` or ``value``; null: as ``trainer`` says.
        accumulate_grad_batches: batches per optimiser step; null: as ``trainer`` says.
        limit_train_batches: batches per pass, or as a float the part of all; null: as ``trainer`` says.

    Raises:
        UserError: a value is out of range.
    """

    max_epochs: int | None = 40
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | dict[str, int] | None = None
    check_val_every_n_epoch: int | None = 1
    val_check_interval: int | float | None = None
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    accumulate_grad_batches: int | None = None
    limit_train_batches: int | float | None = None

    def __post_init__(self) -> None:
        """Refuse before anything is trained what Lightning's Trainer would refuse, or stumble over, after it."""
        for key, least in LEAST.items():
            if (value := getattr(self, key)) is not None and value < least:
                raise UserError(f"position.{key} is {value}; give at least {least}")
        for key in PARTS:
            value = getattr(self, key)
            if value is not None and not (value >= 1 if isinstance(value, int) else 0 < value <= 1):
                raise UserError(f"position.{key} is {value}; give a number of batches, or a part between 0.0 and 1.0")
        if isinstance(self.max_time, str) and not DURATION.fullmatch(self.max_time):
            raise UserError(f"position.max_time is {self.max_time}; give days, hours, minutes, seconds as 00:00:30:00")

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the arguments of the Trainer that are a position's own; the others are as ``trainer`` says."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return given | {"check_val_every_n_epoch": self.check_val_every_n_epoch}  # null has a meaning of its own
