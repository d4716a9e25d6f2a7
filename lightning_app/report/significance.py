"""Intervals of the difference of two rows of a table of scores, on each task and on the average of all."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from callbacks.mteb.example_scores import ExampleScores
from callbacks.mteb.score_differences import resampled_differences
from lightning_app.stages.score import read_examples, read_scores
from modules.bootstrap import Interval, interval

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
        average: of the means over all tasks.
        constant: tasks without values of their examples, whose part of the average was not resampled.
    """

    tasks: dict[str, Difference]
    average: Difference
    constant: list[str]


def read_row(folder: Path, cache: Path) -> Row:
    """The model that a scores stage has scored.

    Args:
        folder: the stage's.
        cache: the score cache of its graph.
    """
    return Row(read_scores(folder), read_examples(folder, cache))


def significance(tasks: "Sequence[AbsTask]", a: Row, b: Row) -> Significance:
    """95 % intervals of the differences by the paired bootstrap: both models on the same examples, drawn anew.

    The average's interval is that of the means over the tasks, draw by draw, with the examples of each task drawn
    independently of the others'. A task without values of its examples (clustering, say) enters with its observed
    difference as a constant, so the interval leaves out what its examples' choice adds; without any values there is no
    interval. The intervals are about the choice of test examples alone: not about what a training's seed adds, nor
    about the rows on which mteb trains its classifiers.

    Args:
        tasks: all that both models were scored on, with their data.
        a: one row.
        b: the other.
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
    drawn = [resampled.get(name, difference.observed) for name, difference in differences.items()]
    average = float(np.mean([difference.observed for difference in differences.values()]))
    bounds = interval(np.asarray(sum(drawn) / len(drawn))) if resampled else None
    return Significance(differences, Difference(average, bounds), constant)


def task_seed(name: str) -> int:
    """The seed of a task's draws, far from every other task's."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
