"""The surroundings of a learned position in a study: along its weight and scale, and over a plane."""

from functools import cached_property

import numpy as np

from lightning_app.report.position_path import PositionPath, read_path
from lightning_app.stages.learn import Learn
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.survey import Point, Survey, read_points
from lightning_app.study.study_rows import Study

FURTHEST = 2.0
"""Times its own scale that a position is moved along its direction."""

MARGIN = 0.25
"""How far a landscape goes beyond the base, and beyond the furthest of experts and position."""


class Surroundings:
    """Measures around the position of a study's main learned merge, whose stage has run.

    Args:
        study: the study.
        scorer: scores the places on capped tasks.
    """

    def __init__(self, study: Study, scorer: Scorer) -> None:
        self.study, self.scorer = study, scorer
        self.name = study.recipe.sensitivity.of
        self.stage: Learn = study.models.learned(self.name)

    @cached_property
    def path(self) -> PositionPath:
        """The way of the position; of one with several groups the means over them."""
        return read_path(self.study.graph.folder(self.stage))

    @property
    def plane(self) -> tuple[str, str]:
        """The two experts with the largest coefficients, in their own order."""
        chosen = self.path.chosen
        largest = sorted(chosen, key=lambda name: -abs(chosen[name]))[:2]
        first, second = [name for name in chosen if name in largest]
        return first, second

    @property
    def weight(self) -> float:
        """The place of the position between the experts of the plane: 0 at the first, 1 at the second."""
        first, second = (self.path.chosen[name] for name in self.plane)
        return second / (first + second)

    def weights(self) -> tuple[list[float], list[Point]]:
        """From the first expert of the plane to the second, the sum of their coefficients kept."""
        weights = sorted({*np.linspace(0, 1, self.study.recipe.points).tolist(), self.weight})
        total = sum(self.path.chosen[name] for name in self.plane)
        places = [self._moved((1 - w) * total, w * total) for w in weights]
        return weights, self._survey("weight", places)

    def scales(self) -> tuple[list[float], list[Point]]:
        """From the base through the position and on, its direction kept."""
        times = sorted({*np.linspace(0, FURTHEST, self.study.recipe.points).tolist(), 1.0})
        places = [[t * c for c in self.path.chosen.values()] for t in times]
        return [t * self.path.chosen_scale for t in times], self._survey("scale", places)

    def landscape(self) -> tuple[list[float], list[float], list[Point]]:
        """Coefficients of either expert of the plane, and what is at all pairs of them; the other experts stay."""
        axes = []
        for name in self.plane:
            highest = max(1.0, self.path.chosen[name], *self.path.coefficients[name])
            axes.append(np.linspace(-MARGIN, highest + MARGIN, self.study.recipe.grid).round(4).tolist())
        places = [self._moved(first, second) for first in axes[0] for second in axes[1]]
        return axes[0], axes[1], self._survey("landscape", places)

    def _moved(self, first: float, second: float) -> list[float]:
        """The position with other coefficients of the two experts of the plane."""
        moved = self.path.chosen | dict(zip(self.plane, (first, second), strict=True))
        return list(moved.values())

    def _survey(self, name: str, places: list[list[float]]) -> list[Point]:
        validation = self.study.models.trainer.of_validation()
        stage = Survey.of(name, self.stage.merge, places, self.study.objectives.probe, validation, self.scorer)
        return read_points(self.study.graph.run(stage))
