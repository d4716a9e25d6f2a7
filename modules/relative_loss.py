"""Losses relative to the base's."""

from collections.abc import Mapping

from modules.errors import UserError


def refuse_undefined(base_losses: Mapping[str, float]) -> None:
    """Refuse losses that nothing can be divided by.

    Args:
        base_losses: data set to the base's loss on its validation rows.

    Raises:
        UserError: a loss is zero or not finite.
    """
    for task, loss in base_losses.items():
        if not 0 < loss < float("inf"):
            raise UserError(
                f"'{task}': the base's loss on its validation rows is {loss}, so no loss is relative to it; "
                "give it more or other rows, or leave it out"
            )
