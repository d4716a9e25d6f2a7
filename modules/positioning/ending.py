"""The ending of a position's search: it has settled, or its budget was used up before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """The end of a search, as its last validations show it.

    Args:
        settled: whether no coefficient moved by more than the limit between the last two validations.
        validations: number of validations.
        best: number of the validation whose position is kept; 0: the start.
        moved: the largest change of a coefficient ``c`` since the validation before the last, or since the start.
        fell: decrease of the objective in that time; negative: it rose.

    Example:
        >>> str(Ending(settled=True, validations=3, best=2, moved=0.0, fell=0.0))
        'settled after 3 validations; kept is validation 2'
    """

    settled: bool
    validations: int
    best: int
    moved: float
    fell: float

    def __str__(self) -> str:
        """Return the end in words."""
        if not self.validations:
            return "ended without a validation: the start is kept"
        number = f"{self.validations} validation{'s' * (self.validations > 1)}"
        falling = "falling" if self.fell >= 0 else "rising"
        how = (
            f"settled after {number}"
            if self.settled
            else f"stopped at its budget after {number}, still moving by {self.moved:.4f} per validation, objective "
            f"{falling} by {abs(self.fell):.4f}"
        )
        kept = f"validation {self.best}" if self.best else "the start, which none was better than"
        return how if self.best == self.validations else f"{how}; kept is {kept}"


def ending_of(history: Sequence[Mapping[str, float]], start: float, limit: float) -> Ending:
    """Return the ending of a search.

    Args:
        history: ``objective`` and ``moved`` of each validation.
        start: the objective at the start.
        limit: below which a movement counts as none.
    """
    objectives = [start, *(point["objective"] for point in history)]
    moved = history[-1]["moved"] if history else 0.0
    return Ending(
        settled=len(history) > 1 and moved < limit,
        validations=len(history),
        best=objectives.index(min(objectives)),
        moved=moved,
        fell=objectives[-2] - objectives[-1] if history else 0.0,
    )
