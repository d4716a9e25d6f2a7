"""The stage that scores a model on MTEB tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.mteb.example_scores import ExampleScores
from callbacks.mteb.result_cache import read_example_scores, read_result
from lightning_app.stages.model import Model
from lightning_app.stages.scorer import Scorer
from lightning_app.stages.stage import LIBRARIES, ResultFolders, Stage
from modules.distributed import is_main_process
from modules.json_files import read_json, write_json

if TYPE_CHECKING:
    from mteb import AbsTask
    from mteb.results import TaskResult

FILE = "scores.json"

SCORED = "scored.json"
"""Beside the scores: task to the name and revision under which the score cache has the model."""


@dataclass(frozen=True)
class Score(Stage):
    """The scores of a model; a task on which equal weights were scored before is not scored again.

    Args:
        name: of the model.
        model: that is scored.
        scorer: scores it on the tasks of the recipe.
    """

    kind = "scores"
    libraries = (*LIBRARIES, "mteb")

    model: Model
    scorer: Scorer

    @property
    def texts(self) -> int:
        """About how many texts pass through the model."""
        return self.scorer.texts

    def run(self, folder: Path, graph: ResultFolders) -> None:
        """Score the model on all tasks."""
        scored = self.scorer.score(self.model, graph)
        if is_main_process():
            write_json(folder / FILE, {found.task: found.score for found in scored})
            write_json(folder / SCORED, {found.task: [found.model, found.revision] for found in scored})
        rank_zero_info("  " + ", ".join(f"{found.task} {found.score:.2f}" for found in scored))


def read_scores(folder: Path) -> dict[str, float]:
    """Return the scores that a stage wrote."""
    scores: dict[str, float] = read_json(folder / FILE)
    return scores


def read_examples(folder: Path, cache: Path) -> dict[str, ExampleScores]:
    """Return what the model of a scores stage made of the examples of each task.

    Args:
        folder: the stage's.
        cache: the score cache of its graph.

    Returns:
        Task to examples; a task without any is not among them, and none is that was scored by a version that kept none.
    """
    scored: dict[str, list[str]] = read_json(folder / SCORED, default={})
    found = {task: read_example_scores(cache, model, revision, task) for task, (model, revision) in scored.items()}
    return {task: examples for task, examples in found.items() if examples}


def read_results(folder: Path, cache: Path, tasks: "Sequence[AbsTask]") -> "dict[str, TaskResult]":
    """Return mteb's results of the model of a scores stage.

    Args:
        folder: the stage's.
        cache: the score cache of its graph.
        tasks: that the stage has scored, with their data.

    Returns:
        Task to result; none is of a task that was scored by a version that did not note where it is kept.
    """
    scored: dict[str, list[str]] = read_json(folder / SCORED, default={})
    named = {task.metadata.name: task for task in tasks}
    return {name: read_result(cache, model, revision, named[name]) for name, (model, revision) in scored.items()}
