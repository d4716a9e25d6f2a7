"""The section ``position`` of a recipe; every field is a key of the YAML."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class PositionSettings:
    """How long every learned position is trained, and how its gradients are clipped: arguments of Lightning's Trainer.

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
    """

    max_epochs: int | None = 40
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | dict[str, int] | None = None
    check_val_every_n_epoch: int | None = 1
    val_check_interval: int | float | str | dict[str, int] | None = None
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: str | None = None
    accumulate_grad_batches: int | None = None
    limit_train_batches: int | float | None = None
