"""Intervals of the difference of two rows of a table of scores, on each task and on the average of all."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from callbacks.mteb.example_scores import ExampleScores
from callbacks.mteb.score_differences import resampled_differences
from callbacks.mteb.task_evaluation import MEAN, MEAN_OF_TYPES, leaderboard_means
from lightning_app.stages.score import read_examples, read_scores
from modules.bootstrap import RESAMPLES, Interval, interval

if TYPE_CHECKING:
    from mteb import AbsTask


class Row(NamedTuple):
    """A scored model.

    Args:
        scores: task to main score x 100.
        examples: task to what the model made of each example; a task without any may be left out.
    """

    scores: Mapping[str, float]
    examples: Mapping[str, ExampleScores]


class Difference(NamedTuple):
    """A difference of scores x 100, and where it lies with 95 %; None: not known."""

    observed: float
    interval: Interval | None


@dataclass(frozen=True)
class Significance:
    """The differences of two rows, the second minus the first.

    Args:
        tasks: on each task.
        means: of the means that MTEB's leaderboard has, see `leaderboard_means`.
        constant: tasks without values of their examples, whose part of the means was not resampled.
        groups: of the means over groups of tasks that were asked for.
    """

    tasks: dict[str, Difference]
    means: dict[str, Difference]
    constant: list[str]
    groups: dict[str, Difference] = field(default_factory=dict)

    @property
    def average(self) -> Difference:
        """The difference of the means over all tasks."""
        return self.means[MEAN]

    @property
    def types(self) -> dict[str, Difference]:
        """The differences of the means over the tasks of each type."""
        return {name: found for name, found in self.means.items() if name not in (MEAN, MEAN_OF_TYPES)}


def read_row(folder: Path, cache: Path) -> Row:
    """The model that a scores stage has scored.

    Args:
        folder: the stage's.
        cache: the score cache of its graph.
    """
    return Row(read_scores(folder), read_examples(folder, cache))


def significance(
    tasks: "Sequence[AbsTask]", a: Row, b: Row, groups: Mapping[str, Sequence[str]] | None = None
) -> Significance:
    """95 % intervals of the differences by the paired bootstrap: both models on the same examples, drawn anew.

    The interval of a mean is that of the means over its tasks, draw by draw, with the examples of each task drawn
    independently of the others'. A task without values of its examples (clustering, say) enters with its observed
    difference as a constant, so the interval leaves out what its examples' choice adds; without any values there is no
    interval. The intervals are about the choice of test examples alone: not about what a training's seed adds, nor
    about the rows on which mteb trains its classifiers.

    Args:
        tasks: all that both models were scored on, with their data.
        a: one row.
        b: the other.
        groups: name to tasks over which a mean is wanted as well.
    """
    differences, resampled = {}, {}
    for task in tasks:
        name = task.metadata.name
        found = resampled_differences(task, a.examples.get(name, {}), b.examples.get(name, {}), seed=task_seed(name))
        if found is not None:
            resampled[name] = found
        bounds = None if found is None else interval(found)
        differences[name] = Difference(b.scores[name] - a.scores[name], bounds)
    constant = [name for name in differences if name not in resampled]
    observed = {name: found.observed for name, found in differences.items()}
    drawn = {name: np.full(RESAMPLES, value) for name, value in observed.items()} | resampled
    means = _leaderboard_means(tasks, observed, drawn, resampled.keys())
    return Significance(differences, means, constant, _group_means(groups or {}, observed, drawn, resampled.keys()))


def _leaderboard_means(
    tasks: "Sequence[AbsTask]",
    observed: Mapping[str, float],
    drawn: Mapping[str, NDArray[np.float64]],
    resampled: Collection[str],
) -> dict[str, Difference]:
    """Return the leaderboard's means of differences."""
    sure = {str(task.metadata.type) for task in tasks if task.metadata.name in resampled}
    sure |= {MEAN, MEAN_OF_TYPES} if sure else set()
    draws = leaderboard_means(tasks, drawn)
    return {
        name: _difference(value, draws[name], name in sure)
        for name, value in leaderboard_means(tasks, observed).items()
    }


def _group_means(
    groups: Mapping[str, Sequence[str]],
    observed: Mapping[str, float],
    drawn: Mapping[str, NDArray[np.float64]],
    resampled: Collection[str],
) -> dict[str, Difference]:
    """Return the means of differences over groups of tasks."""
    return {
        group: _difference(
            np.mean([observed[name] for name in names]),
            np.mean([drawn[name] for name in names], axis=0),
            any(name in resampled for name in names),
        )
        for group, names in groups.items()
    }


def _difference(observed: np.floating[Any] | NDArray[np.float64], drawn: NDArray[np.float64], sure: bool) -> Difference:
    """Return a difference of means; without any resampled task in it, a mean has no interval."""
    return Difference(float(observed), interval(drawn) if sure else None)


def task_seed(name: str) -> int:
    """The seed of a task's draws, far from every other task's."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
