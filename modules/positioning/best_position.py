"""The best position that a search has seen, and the validations on its way."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.positioning.ending import Ending, ending_of
from modules.positioning.position import Position


class BestPosition:
    """Keeps the best position of a search, its start included.

    Args:
        position: the position that is searched.
        settled: a search has settled when no coefficient moved by more than this between two validations.

    Attributes:
        objective: at the best position; infinite before a position was seen.
        numbers: the state of the best position; None before a position was seen.
        history: ``objective``, ``moved`` (the largest change of a coefficient) and the passes made, per validation.

    Example:
        >>> best = BestPosition(position)
        >>> best.begin(objective=1.0)
        >>> best.see(0.9, {"forward": 10, "backward": 10})
        >>> best.restore()
    """

    def __init__(self, position: Position, settled: float = 1e-3) -> None:
        self.position = position
        self.settled = settled
        self.forget()

    def forget(self) -> None:
        """Forget all positions seen: another search starts where the position stands."""
        self.objective = math.inf
        self.numbers: dict[str, Tensor] | None = None
        self.history: list[dict[str, float]] = []
        self._at_start = math.nan
        self._last_coefficients = self.position.coefficients().detach()

    def begin(self, objective: float) -> None:
        """Keep the start, which a later position has to beat.

        Args:
            objective: at the start.
        """
        self._at_start = objective
        self._keep_if_best(objective)

    def see(self, objective: float, passes: Mapping[str, int]) -> None:
        """Add a validation of the present position, and keep the position if it is the best.

        Args:
            objective: at the position.
            passes: made so far, ``forward`` and ``backward``.
        """
        coefficients = self.position.coefficients().detach()
        moved = float((coefficients - self._last_coefficients).abs().max())
        self._last_coefficients = coefficients
        self.history.append({**passes, "objective": objective, "moved": moved})
        self._keep_if_best(objective)

    @property
    def ending(self) -> Ending:
        """The ending of the search, or its state if it goes on."""
        return ending_of(self.history, self._at_start, self.settled)

    def restore(self) -> None:
        """Move to the best position seen, if there is one."""
        if self.numbers is not None:
            self.position.load_state_dict(self.numbers)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {
            "objective": self.objective,
            "numbers": self.numbers,
            "history": self.history,
            "at_start": self._at_start,
            "last_coefficients": self._last_coefficients,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.objective, self.numbers, self.history = state["objective"], state["numbers"], state["history"]
        self._at_start, self._last_coefficients = state["at_start"], state["last_coefficients"]

    def _keep_if_best(self, objective: float) -> None:
        if objective < self.objective:
            self.objective = objective
            self.numbers = {key: value.detach().cpu().clone() for key, value in self.position.state_dict().items()}
