"""The gain of a merge over the best single model, in words."""

from dataclasses import dataclass

from modules.bootstrap import Interval


@dataclass(frozen=True)
class Gain:
    """The gain of a merge: its mean loss, relative to the base's, below that of the best single model.

    Args:
        best: name of the best model among base and experts.
        its_loss: the mean of its losses relative to the base's.
        loss: that of the merge.
        bounds: 95 % bootstrap interval of the difference; None: there are too few batches.
        average: that of the plain average, which is simpler and is named where it is no higher; None: not known.
    """

    best: str
    its_loss: float
    loss: float
    bounds: Interval | None
    average: float | None = None

    def __str__(self) -> str:
        """Return the gain in one sentence, and in another the plain average where it is as good."""
        gain = round(self.its_loss - self.loss, 4) + 0.0  # what is shown as 0 is no difference, and has no sign
        low, high = self.bounds or (gain, gain)
        sure = f"95 % interval {self.bounds:+.4f}" if self.bounds else "too few held-out rows for an interval"
        if low > 0:
            said = "The merge is better on held-out rows than every single model"
        elif high < 0:
            said = f"{self.best} alone is better on held-out rows than the merge"
        else:
            said = f"{self.best} alone is as good on held-out rows as the merge"
        simpler = self.average is not None and round(self.average, 4) <= round(self.loss, 4)
        return (
            f"{said}: loss {self.loss:.4f} against {self.its_loss:.4f} of {self.best}, a gain of {gain:+.4f} ({sure})."
            + (f" The plain average, which is simpler, has {self.average:.4f}." if simpler else "")
        )
