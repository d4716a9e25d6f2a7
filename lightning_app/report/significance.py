"""Intervals of the difference of two rows of a table of scores, on each task and on the average of all."""

import hashlib
from collections.abc import Mapping, Sequence
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
    drawn = {name: np.full(RESAMPLES, found.observed) for name, found in differences.items()} | resampled
    observed = {name: found.observed for name, found in differences.items()}
    types = leaderboard_means(tasks, observed), leaderboard_means(tasks, drawn)
    known = {str(task.metadata.type) for task in tasks if task.metadata.name in resampled}
    sure = {MEAN: bool(known), MEAN_OF_TYPES: bool(known)} | dict.fromkeys(known, True)
    means = {name: _difference(value, types[1][name], sure.get(name, False)) for name, value in types[0].items()}
    of_groups = {
        group: _difference(
            np.mean([observed[name] for name in names]),
            np.mean([drawn[name] for name in names], axis=0),
            not resampled.keys().isdisjoint(names),
        )
        for group, names in (groups or {}).items()
    }
    constant = [name for name in differences if name not in resampled]
    return Significance(differences, means, constant, of_groups)


def _difference(observed: np.floating[Any] | NDArray[np.float64], drawn: NDArray[np.float64], sure: bool) -> Difference:
    """Return a difference of means; without any resampled task in it, a mean has no interval."""
    return Difference(float(observed), interval(drawn) if sure else None)


def task_seed(name: str) -> int:
    """The seed of a task's draws, far from every other task's."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
