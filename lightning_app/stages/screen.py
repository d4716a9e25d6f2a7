"""Lines that say which stage of a run is at work, and about how long the run still takes."""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from lightning_app.stages.stage import Stage

Style = Literal["text", "json", "quiet"]
"""A line per stage, a JSON object per stage on the standard error stream, or nothing."""


class Screen:
    """Says ``[3 of 9] expert retrieval, about 4 min left``.

    The time left is the number of texts that the other stages pass through a model, times the seconds per text that
    stages of their kind took in this run, or before there is one of their kind, `seconds_per_text`.

    Args:
        style: of the lines.
        seconds_per_text: measures a first estimate, where a stage is to run; None: nothing is estimated before one has.
    """

    def __init__(self, style: Style = "text", seconds_per_text: Callable[[], float] | None = None) -> None:
        self.style = style
        self._measure = seconds_per_text
        self._first: float | None = None
        self._left: list[Stage] = []
        self._count = 0
        self._taken: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def plan(self, stages: Sequence[Stage]) -> None:
        """Take note of the stages that are going to run, in their order."""
        self._left, self._count = list(stages), len(stages)
        if self._first is None and self._measure is not None and any(stage.texts for stage in stages):
            self._first = self._measure()

    def begin(self, stage: Stage) -> None:
        """Say that a stage begins."""
        number, left = self._count - len(self._left) + 1, self.seconds_left()
        if self.style == "json":
            self._write("begin", stage, number=number, of=self._count, seconds_left=left and round(left))
        elif self.style == "text":
            time = "" if left is None else f", {readable(left)} left"
            rank_zero_info(f"[{number} of {self._count}] {stage.title}{time}")

    def end(self, stage: Stage, seconds: float) -> None:
        """Take note of how long a stage took."""
        self._left = [other for other in self._left if other.key != stage.key]
        self._taken[stage.kind][0] += seconds
        self._taken[stage.kind][1] += stage.texts
        if self.style == "json":
            self._write("end", stage, seconds=round(seconds, 2))

    def seconds_left(self) -> float | None:
        """Return about how long the stages that are left take; None: not known."""
        rates = {kind: seconds / texts for kind, (seconds, texts) in self._taken.items() if texts}
        if self._first is None and not rates:
            return None
        other = self._first if self._first is not None else max(rates.values())
        return sum(stage.texts * rates.get(stage.kind, other) for stage in self._left)

    @rank_zero_only
    def _write(self, event: str, stage: Stage, **values: Any) -> None:
        said = {"event": event, "kind": stage.kind, "name": stage.name, "key": stage.key, **values}
        print(json.dumps(said), file=sys.stderr, flush=True)


def readable(seconds: float) -> str:
    """Return a time in words, as exact as an estimate is."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"about {round(minutes)} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
